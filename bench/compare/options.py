"""The options of `baton bench compare`, read and checked before anything starts."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from baton.bench.compare import layouts as making
from baton.bench.compare.layouts import CHUNKS, Layout
from baton.bench.compare.loads import Load, parse_workload
from baton.bench.compare.measure import Serve
from baton.bench.compare.patience import Client
from baton.bench.compare.planned import layouts_of, rate_of
from baton.bench.compare.running import Start, Starter, model_of
from baton.bench.compare.wants import Want, check
from baton.bench.compare.wants import parse as parse_want
from baton.bench.durations import duration, share
from baton.bench.planning.plan import Plan, read_plan
from baton.bench.results import add_json
from baton.bench.serve.asking import Asking
from baton.bench.workloads.arrivals import Fit
from baton.bench.workloads.sessions import LONGEST, MAX_TOKENS
from baton.bench.workloads.tokens import VOCABULARY
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

STOPPED = 130
"""Exit code, as shells tell of Ctrl-C."""


@dataclass(frozen=True)
class Chosen:
    """All that a comparison needs."""

    layouts: list[Layout]
    load: Load
    start: Start
    serve: Serve
    wants: list[Want]
    plan: Plan | None = None
    close: Callable[[], None] = lambda: None
    """Ends what was started and is kept."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of peers that tell theirs, once they were started."""


def add_workers(parser: argparse.ArgumentParser) -> None:
    """What runs, how long, and what is wanted of it."""
    parser.add_argument("model", nargs="?", help="as for `baton up`; default: the embedded one")
    parser.add_argument("--ttft", type=duration, default=1.0, metavar="DURATION",
                        help="target to the first token; default: 1s")
    parser.add_argument("--itl", type=duration, default=0.05, metavar="DURATION",
                        help="target of a request's mean between tokens; default: 50ms")
    parser.add_argument("--workers", type=int, default=2, help="of each layout; default: 2")
    parser.add_argument("--chunks", type=int, nargs="+", default=list(CHUNKS), metavar="TOKENS",
                        help="tokens of a step that colocated workers are tried with")
    parser.add_argument("--dtype", default="auto", help="as for `baton up`")
    parser.add_argument("--paced", metavar="PROFILE.json",
                        help="on paced workers: real processes, whose steps take what this says")
    parser.add_argument("--up", default="", metavar="OPTIONS",
                        help="more options of `baton up`, for every layout: "
                        "--up='--kv-blocks 2000 --kv-checksum'")
    parser.add_argument("--warm-up", type=duration, default=10.0, metavar="DURATION",
                        help="of each run, before what counts; default: 10s")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run, that count")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions; default: 3")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)


def parse(arguments: Sequence[str] | None, about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench compare", description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_workers(parser)
    parser.add_argument("--load", default="96/192+1536/8:0.2", metavar="LOAD",
                        help="a workload's name, PROMPT/OUTPUT tokens, or a mix of these: "
                        "96/192+1536/8:0.2 (the default) has a fifth of long prompts")
    parser.add_argument("--lengths", type=float, default=1.0, metavar="TIMES",
                        help="a named workload's lengths times this: for small models")
    parser.add_argument("--e2e", type=duration, metavar="DURATION",
                        help="target to the last token; default: none")
    parser.add_argument("--attainment", type=share, default=0.95,
                        help="share of requests that a rate is held with; default: 0.95")
    parser.add_argument("--layout", action="append", metavar="LAYOUT",
                        help='"colocated", "colocated 256", "split 1+1", "auto", or '
                        '"NAME=OPTIONS of baton up"; repeat. Default: all that make sense')
    parser.add_argument("--no-tuning", action="store_true",
                        help="measure all layouts, not only the best of each family")
    parser.add_argument("--rates", type=float, nargs="+", metavar="RATE",
                        help="requests per second to measure at; default: around the capacity of "
                        "the best colocated layout")
    parser.add_argument("--capacity", action="store_true",
                        help="also find the highest rate of each layout, with --rates")
    parser.add_argument("--start", type=float, metavar="RATE",
                        help="where tuning and searching begin; default: the first of --rates, "
                        "or 1")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=URL|NAME=COMMAND",
                        help="one more column: a server that runs, with an OpenAI-compatible API "
                        "and without prefix caching; or a command that starts one, prints its URL "
                        "once it serves, and ends it when it is ended; repeat")
    parser.add_argument("--want", action="append", default=[], metavar="CRITERION",
                        help='"split 1+1: itl_p99_ms <= 0.333 * colocated", at all rates or '
                        '"... @ 1.4,2.2", judged by the interval over repetitions; repeat. What '
                        "does not hold ends with 1")
    parser.add_argument("--plan", type=Path, metavar="PLAN.json",
                        help="of `baton plan --json`, for the same --load: its layouts are "
                        "measured with its targets, at its rate, and its figures are set beside "
                        "what was measured")
    parser.add_argument("--html", metavar="FILE", help="also write a report with pictures")
    options = parser.parse_args(arguments)
    for name in ("workers", "repeat", "seconds", "start", "ttft", "itl", "e2e", "chunks", "rates",
                 "lengths", "attainment"):
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not 0 < value < math.inf:
                parser.error(f"--{name} must be above 0, got {value:g}")
    return options


def begin(options: argparse.Namespace) -> float:
    """The rate that tuning and searching begin at."""
    if options.start is not None:
        return float(options.start)
    return float(options.rates[0]) if options.rates else 1.0


def targets_of(options: argparse.Namespace) -> Targets:
    return Targets(ttft=options.ttft, itl=options.itl)


def load_of(options: argparse.Namespace, text: str, lengths: float = 1.0) -> Load:
    """`text`: as after --load. Raises ConfigError."""
    return Load(
        name=text,
        workload=parse_workload(text),
        targets=targets_of(options),
        fit=_fit(options, lengths),
        warm=options.warm_up,
        seconds=options.seconds,
        e2e=options.e2e,
    )


def start_of(options: argparse.Namespace) -> Starter:
    common = [options.model] if options.model else []
    common += ["--paced", options.paced] if options.paced else ["--dtype", options.dtype]
    return Starter([*common, *shlex.split(options.up)])


def serve_of(options: argparse.Namespace) -> Serve:
    return Client(Asking(scripted=options.paced is not None))


def choose(options: argparse.Namespace) -> Chosen:
    """Raises ConfigError."""
    plan = None if options.plan is None else _planned(options)
    targets, workers = targets_of(options), options.workers
    planned = [] if plan is None else layouts_of(plan, targets)
    if planned and not options.layout:
        chosen = planned
    elif options.layout:
        chosen = [making.parse(text, workers, targets) for text in options.layout]
    else:
        chosen = making.usual(workers, options.chunks, targets)
    chosen += [making.peer(text) for text in options.peer]
    names = [layout.name for layout in chosen]
    if len(set(names)) < len(names):
        raise ConfigError(f"layouts of the same name: {', '.join(names)}")
    wants = [parse_want(text) for text in options.want]
    check(wants, chosen, rates=options.rates, tuned=not options.no_tuning, repeat=options.repeat)
    for layout in chosen:
        if layout.url is not None:
            model_of(layout)  # a peer that is not there is better known before hours of runs
    start = start_of(options)
    return Chosen(
        layouts=chosen,
        load=load_of(options, options.load, options.lengths),
        start=start,
        close=start.close,
        versions=start.versions,
        serve=serve_of(options),
        wants=wants,
        plan=plan,
    )


def _planned(options: argparse.Namespace) -> Plan:
    """The plan, whose question replaces options of the same meaning. Raises ConfigError."""
    plan = read_plan(options.plan)
    if not plan.choices:
        raise ConfigError(f"{options.plan} has no layout to measure")
    asked = plan.question
    if asked.workload not in (options.load, f"{options.load} x {options.lengths:g}"):
        raise ConfigError(f"{options.plan} is for {asked.workload}: give --load of that")
    options.ttft, options.itl = asked.ttft_ms / 1e3, asked.itl_ms / 1e3
    options.e2e = None if asked.e2e_ms is None else asked.e2e_ms / 1e3
    options.attainment = asked.attainment
    options.rates = options.rates or [rate_of(plan)]
    options.no_tuning = True
    return plan


def _fit(options: argparse.Namespace, lengths: float) -> Fit:
    """What the model can take. Without a model, of paced workers, anything."""
    if options.paced:
        return Fit(lengths=lengths)
    from baton.engine.model.source import load_config, resolve_model

    config = load_config(resolve_model(options.model))
    longest = max(1, min(LONGEST, config.max_position - MAX_TOKENS))
    return Fit(
        longest=longest if config.max_position > MAX_TOKENS else config.max_position // 2,
        max_tokens=min(MAX_TOKENS, config.max_position // 2),
        lengths=lengths,
        vocabulary=min(VOCABULARY, config.vocab_size),
    )

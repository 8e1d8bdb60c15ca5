"""The load that a command line asks for: a named workload, a trace, or stated lengths."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from baton.bench.durations import duration, share
from baton.bench.serve.traced import Omitted, Room, of_trace
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.arrivals import Fit, arrivals
from baton.bench.workloads.lengths import Lengths
from baton.bench.workloads.named import WORKLOADS, check_name
from baton.bench.workloads.sessions import LONGEST, MAX_TOKENS
from baton.bench.workloads.tokens import SPECIAL, VOCABULARY
from baton.bench.workloads.workload import Workload
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

_NOMINAL = 10.0
"""Requests per second of which a closed loop takes the next one whenever it can."""
_STATED = {"prompt": 512, "output": 64, "spread": 0.0, "shared": 0.0, "groups": 1, "turns": 1}
"""What describes a load that has no name and is no trace, and what it is if nothing is said."""
_PROCESSES = "poisson, constant, or gamma:V (V: standard deviation of intervals over their mean)"


def add_load(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is asked for")
    what.add_argument("--workload", metavar="NAME", help="one of --list")
    what.add_argument("--trace", type=Path, metavar="FILE", help="Mooncake JSONL, Azure or "
                      "BurstGPT CSV, or a router's journal")
    what.add_argument("--prompt", type=int, help="tokens, without the two above; default: 512")
    what.add_argument("--output", type=int, help="tokens; default: 64")
    what.add_argument("--spread", type=float,
                      help="of both lengths' logarithms; default: 0, all alike")
    what.add_argument("--shared", type=share, metavar="SHARE",
                      help="of the prompt that sessions have in common, at its head")
    what.add_argument("--groups", type=int, help="different heads; default: 1")
    what.add_argument("--turns", type=int, help="of each conversation; default: 1")
    what.add_argument("--lengths", type=float, metavar="FACTOR",
                      help="of all prompts and answers, but of a trace; for small models")
    what.add_argument("--longest", type=int, default=None, help="prompt tokens; default: what the "
                      f"model's context allows; of a workload at most {LONGEST}")
    what.add_argument("--max-tokens", type=int, default=None, help="of any answer; default: of a "
                      f"workload {MAX_TOKENS}, at most half of the model's context; of a trace all")
    what.add_argument("--vocabulary", type=int, default=VOCABULARY,
                      help="token ids of prompts are below this")
    what.add_argument("--seed", type=int, default=1)
    when = parser.add_argument_group("when")
    when.add_argument("--rate", type=float, help="requests per second; of a trace: scaled to this")
    when.add_argument("--ramp-to", type=float, metavar="RATE",
                      help="the rate changes linearly up to this at the end")
    when.add_argument("--arrivals", default=None, metavar="PROCESS", help=_PROCESSES)
    when.add_argument("--speed", type=float, default=None,
                      help="of a trace: times as fast as it was")
    when.add_argument("--start", type=duration, default=0.0, metavar="DURATION",
                      help="into the trace")
    when.add_argument("--concurrency", type=int, metavar="N",
                      help="closed loop of N clients, each with one request at a time")
    when.add_argument("--warmup", type=duration, default=5.0, metavar="DURATION",
                      help="before what counts (default 5s)")
    when.add_argument("--duration", type=duration, default=None, metavar="DURATION",
                      help="that counts (default 60s, without --requests)")
    when.add_argument("--requests", type=int, metavar="N", help="at most, warm-up included")


def check(options: argparse.Namespace) -> None:
    """Raises ConfigError for what does not go together."""
    if options.workload is not None:
        check_name(options.workload)
        if options.trace is not None:
            raise ConfigError("--workload and --trace are both a load: give one")
    _ignored(options)
    if options.trace is None and options.rate is None and options.concurrency is None:
        raise ConfigError("give --rate (open loop) or --concurrency (closed loop)")
    if options.rate is not None and options.concurrency is not None:
        raise ConfigError("--rate is for an open loop, --concurrency for a closed one: give one")
    if options.rate is not None and options.speed is not None:
        raise ConfigError("--rate and --speed both scale a trace: give one")
    _variation(options.arrivals)
    for name in ("rate", "ramp_to", "concurrency", "requests", "duration", "speed", "prompt",
                 "output", "lengths", "groups", "turns", "longest", "max_tokens"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {value:g}")
    if not 0 <= (options.shared or 0) < 1 or (options.spread or 0) < 0 or (
        options.vocabulary <= SPECIAL
    ):
        raise ConfigError("--shared is from 0 to below 1, --spread at least 0, --vocabulary above "
                          f"{SPECIAL}")
    if options.trace is None and (options.speed is not None or options.start):
        raise ConfigError("--speed and --start are of a --trace")
    if options.ramp_to is not None and (options.trace is not None or options.rate is None):
        raise ConfigError("--ramp-to changes --rate of a workload or of lengths")
    if options.duration is None and options.requests is None:
        options.duration = 60.0


def _ignored(options: argparse.Namespace) -> None:
    """Raises ConfigError for what another option leaves without a meaning. What is left has its
    usual value afterwards."""
    for given, without in (("trace", (*_STATED, "lengths", "arrivals")), ("workload", _STATED),
                           ("concurrency", ("arrivals", "speed"))):
        names = [f"--{name}" for name in without if getattr(options, name) is not None]
        if getattr(options, given) is not None and names:
            raise ConfigError(
                f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} no meaning beside "
                f"--{given}: leave {'it' if len(names) == 1 else 'them'} out"
            )
    if options.trace is None and options.workload is None:
        for name, usual in _STATED.items():
            if getattr(options, name) is None:
                setattr(options, name, usual)
    if options.lengths is None:
        options.lengths = 1.0


def load_of(
    options: argparse.Namespace, max_model_len: int | None, omitted: Omitted | None = None
) -> Iterator[Arrival]:
    """`max_model_len` of the server, where it tells. `omitted` counts what of a trace cannot be
    asked for. Raises ConfigError."""
    targets = Targets(ttft=options.ttft, itl=options.itl)
    if options.trace is not None:
        stream = _of_trace(options, max_model_len, targets, omitted or Omitted())
    else:
        fit = _fit(options, max_model_len or LONGEST + MAX_TOKENS)
        stream = _of_workload(options, fit, targets)
    return stream if options.requests is None else islice(stream, options.requests)


def _fit(options: argparse.Namespace, context: int) -> Fit:
    stated = options.workload is None and options.trace is None
    most = options.max_tokens or min(MAX_TOKENS, context // 2)
    if stated and options.max_tokens is None:
        most = round(options.output * options.lengths * (4 if options.spread else 1))
    longest = options.longest or min(LONGEST, context - most)
    if longest < 1 or (stated and options.prompt * options.lengths > longest):
        raise ConfigError(
            f"the context of {context} tokens does not hold what is asked for: prompts of "
            f"{longest if longest < 1 else options.prompt}, answers of up to {most}"
        )
    return Fit(longest=longest, max_tokens=most, lengths=options.lengths,
               vocabulary=options.vocabulary)


def _of_workload(options: argparse.Namespace, fit: Fit, targets: Targets) -> Iterator[Arrival]:
    rate = options.rate or _NOMINAL
    if options.concurrency is not None:
        # As many as it may need; a closed loop takes them when it can.
        seconds = (options.requests or 100 * options.duration) / rate + 100
    elif options.duration is not None:
        seconds = options.warmup + options.duration
    else:
        seconds = 2 * options.requests / rate + 10
    workload = workload_of(options)
    parts = workload.parts(rate, seconds, variation=_variation(options.arrivals),
                           last_rate=options.ramp_to)
    return arrivals(parts, options.seed, lambda kind: targets, fit)


def workload_of(options: argparse.Namespace) -> Workload:
    if options.workload is not None:
        return WORKLOADS[options.workload]
    return Lengths(
        prompt=options.prompt, output=options.output, spread=options.spread,
        shared=options.shared, groups=options.groups, turns=options.turns,
    ).workload()


def _of_trace(
    options: argparse.Namespace, max_model_len: int | None, targets: Targets, omitted: Omitted
) -> Iterator[Arrival]:
    seconds = None
    if options.duration is not None and options.concurrency is None:
        seconds = options.warmup + options.duration
    room = Room(context=max_model_len, prompt=options.longest, answer=options.max_tokens,
                whole=options.scripted)
    return of_trace(
        options.trace, room, omitted, targets=targets, vocabulary=options.vocabulary,
        start=options.start, seconds=seconds, speed=options.speed, rate=options.rate,
    )


def _variation(process: str | None) -> float | None:
    """Of the intervals; None: as the workload has it."""
    if process is None:
        return None
    name, _, number = process.partition(":")
    if process in ("poisson", "constant"):
        return 1.0 if process == "poisson" else 0.0
    try:
        if name == "gamma" and float(number) > 0:
            return float(number)
    except ValueError:
        pass
    raise ConfigError(f"--arrivals {process!r} is none of: {_PROCESSES}")

"""`baton simulate`: one layout under one load in simulated time; or recorded traffic against
another split, policy or hardware; or with workers that die and join."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from baton.bench.planning.event_costs import Both, costs_of
from baton.bench.planning.events import Happening, read_events
from baton.bench.planning.files import write_file
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.inputs import (
    USUAL,
    add_hardware,
    add_load,
    add_wishes,
    parser,
    read_kinds,
    read_load,
    read_rate,
    read_wishes,
)
from baton.bench.planning.journals import layout_of, read_journal, seen_of, targets_of
from baton.bench.planning.layout import Layout, parse_layout
from baton.bench.planning.progress import progress
from baton.bench.planning.run import run_load, workers_of
from baton.bench.planning.simulated import Report, report_of, row_of, show
from baton.bench.planning.steady import Length, run_steady
from baton.bench.planning.what_if import POLICIES, Case, case_of, replayed, span_of
from baton.bench.simulator.cluster import Run
from baton.bench.workloads.traces import read_trace
from baton.protocol.errors import ConfigError

ABOUT = """\
One layout in simulated time: the router and the schedulers that serve, with workers whose steps
take what the hardware's curve says. A layout is 2p+1d (2 prefill, 1 decode), 4m (4 mixed), 1p+2m,
or ~2p+1d where any worker may do both if that costs less.

With --what-if the requests of a router's journal come once more, as they came, to another split, by
another policy (strict, cost, local, auto) or on other hardware; beside what was really seen.

With --fail and --join workers die, come back and join while it runs: what that costs the requests
around it is told beside the same run without; with --what-if, of each split, policy or hardware.
Workers are named as by `baton up`, prefill-0.
"""
EXAMPLES = """\
  baton simulate 2p+2d --hardware here.json --workload chat --rate 8/s --ttft 500ms --itl 60ms
  baton simulate 4m --hardware made --prompt 2000 --output 200 --rate 3/s --json
  baton simulate 2p+2d --hardware made --workload chat --rate 8/s --fail decode-0@60s+20s
  baton simulate --hardware here.json --trace journal.jsonl --what-if 3p+1d --what-if cost
  baton simulate 2p+2d --hardware here.json --trace journal.jsonl --what-if cost --fail decode-0@60s
  baton simulate 2p+2d --hardware here.json --trace journal.jsonl --what-if h100"""
_LIVES = 8.0
"""Of requests, one after the other, that a run lasts at least: or no rate is kept up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _parser().parse_args(None if arguments is None else list(arguments))
    if options.seeds < 1 or options.requests < 1:
        raise ConfigError("--seeds and --requests must be at least 1")
    report = _what_if(options) if options.what_if else _simulated(options)
    if options.json is None:
        show(report)
    else:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            write_file(Path(options.json), text.encode())
    return 0


# -- inside ----------------------------------------------------------------------------------


def _simulated(options: argparse.Namespace) -> Report:
    kinds, _ = read_kinds(options)
    load = read_load(options, kinds)
    wishes = read_wishes(options)
    rate = read_rate(options.rate) or load.rate
    if options.layout is None:
        raise ConfigError("which layout? Such as 2p+1d or 4m")
    if rate is None:
        raise ConfigError("--rate is needed: requests per second, such as 4/s (baton plan finds "
                          "the most that can be)")
    layout = parse_layout(options.layout, kinds)
    roles = [role for role, _ in workers_of(layout, kinds)]
    happening = read_events(options.fail, options.join, roles)
    workload = wishes.within(load.sample(wishes.targets))
    length = Length(requests=options.requests, lives=_LIVES,
                    seconds=happening.seconds if happening.events else 0.0)
    calm, disturbed, seen = [], [], []
    with progress() as tell:
        tell(options.seeds, 0)
        for seed in range(options.seed, options.seed + options.seeds):
            looks: list[Run] = []
            span, found = run_steady(layout, kinds, load, workload, wishes, rate=rate,
                                     length=length, seed=seed, look=looks.append)
            calm.append(found)
            if happening.events:
                same = looks[-1]
                disturbed.append(run_load(layout, kinds, load, wishes, rate=rate, span=span,
                                          seed=seed, events=happening.after(span.warm),
                                          look=looks.append))
                seen.append(Both(span, looks[-1], same))
            tell(0, 1)
    name = layout.name(kinds)
    if not happening.events:
        return report_of(load.name, wishes, [row_of(name, calm)])
    rows = [row_of(f"{name}, undisturbed", calm), row_of(name, disturbed)]
    return report_of(load.name, wishes, rows, [costs_of(seen, wishes, happening, of=name)])


def _what_if(options: argparse.Namespace) -> Report:
    if options.trace is None:
        raise ConfigError("--what-if needs traffic that was: --trace JOURNAL (`baton up --journal "
                          "FILE`)")
    if options.rate is not None:
        raise ConfigError("--what-if replays requests as they came: leave out --rate")
    accounts = read_journal(options.trace)
    wishes = read_wishes(options, targets_of(accounts, USUAL))
    kinds, _ = read_kinds(options)
    layout = _base_layout(options.layout, kinds, layout_of(accounts))
    base = Case(name=f"the same, simulated: {layout.name(kinds)}", layout=layout, kinds=kinds)
    cases = [base, *(case_of(text, base) for text in options.what_if)]
    trace = read_trace(options.trace)
    # Of all before any runs: a worker to die may be one that another split has not.
    happening = [_happening(options, case, span_of(case, trace).counted) for case in cases]
    rows = [row_of("really seen", [seen_of(accounts, wishes)])]
    costs = []
    with progress() as tell:
        tell(len(cases) * options.seeds, 0)
        for case, events in zip(cases, happening, strict=True):
            calm, disturbed, both = [], [], []
            for seed in range(options.seed, options.seed + options.seeds):
                looks: list[Run] = []
                calm.append(replayed(case, trace, wishes, seed=seed, look=looks.append))
                if events.events:
                    disturbed.append(replayed(case, trace, wishes, seed=seed, look=looks.append,
                                              events=events.after(0.0)))
                    both.append(Both(span_of(case, trace), disturbed=looks[1], calm=looks[0]))
                tell(0, 1)
            rows.append(row_of(case.name, calm))
            if events.events:
                name = f"{case.name}, disturbed"
                rows.append(row_of(name, disturbed))
                costs.append(costs_of(both, wishes, events, of=name))
    return report_of(options.trace.name, wishes, rows, costs)


def _happening(options: argparse.Namespace, case: Case, seconds: float) -> Happening:
    """To the workers of one case, which runs for so long. Raises ConfigError that names it."""
    roles = [role for role, _ in workers_of(case.layout, case.kinds)]
    try:
        found = read_events(options.fail, options.join, roles)
    except ConfigError as error:
        raise ConfigError(f"{case.name}: {error}. What happens, happens to each --what-if: leave "
                          "out the splits that it cannot happen to") from error
    late = max((event.at for event in found.events), default=0.0)
    if late >= seconds:
        raise ConfigError(f"--fail, --join: second {late:g} is behind the end of the trace, which "
                          f"lasts {seconds:.1f} s")
    return found


def _base_layout(
    text: str | None, kinds: Sequence[WorkerKind], seen: Layout | None
) -> Layout:
    if text is not None:
        return parse_layout(text, kinds)
    if seen is None:
        raise ConfigError("the journal does not tell which workers there were: give their layout, "
                          "such as 2p+1d")
    return seen


def _parser() -> argparse.ArgumentParser:
    found = parser("simulate", ABOUT, EXAMPLES)
    found.add_argument("layout", nargs="?", metavar="LAYOUT", help="such as 2p+1d, 4m, ~1p+1d")
    add_hardware(found)
    add_load(found)
    add_wishes(found)
    how = found.add_argument_group("how")
    how.add_argument("--what-if", action="append", metavar="SPLIT|POLICY|HARDWARE",
                     help=f"one thing that is otherwise; policies: {', '.join(POLICIES)}; repeat "
                     "for several")
    how.add_argument("--fail", action="append", default=[], metavar="WORKER@TIME[+BACK]",
                     help="a worker is killed, such as decode-0@60s, and back with an empty cache "
                     "after BACK; repeat. Times are those of the part that counts")
    how.add_argument("--join", action="append", default=[], metavar="ROLE@TIME[+START]",
                     help="one more worker is asked for, and ready after START: decode@60s+30s")
    how.add_argument("--requests", type=int, default=1000,
                     help="that count, at least: high rates need more")
    how.add_argument("--seeds", type=int, default=1, help="for confidence intervals: 3 or more")
    how.add_argument("--seed", type=int, default=1)
    how.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print JSON, or to FILE")
    return found

"""`baton simulate`: one layout under one load in simulated time; or recorded traffic against
another split, policy or hardware; or with workers that die and join."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import asdict
from rich.console import Console

from baton.bench.planning.estimates import share
from baton.bench.planning.event_costs import Both, Costs, costs_of
from baton.bench.planning.events import AROUND, read_events
from baton.bench.planning.figures import figure
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
from baton.bench.planning.outcomes import figures_of
from baton.bench.planning.plan import Estimate, Figures
from baton.bench.planning.progress import progress
from baton.bench.planning.run import RunFigures, run_load, workers_of
from baton.bench.planning.steady import Length, run_steady
from baton.bench.planning.what_if import POLICIES, Case, case_of, replayed
from baton.bench.planning.wishes import Wishes
from baton.bench.report import show_table
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
around it is told beside the same run without. Workers are named as by `baton up`, prefill-0.
"""
EXAMPLES = """\
  baton simulate 2p+2d --hardware here.json --workload chat --rate 8/s --ttft 500ms --itl 60ms
  baton simulate 4m --hardware made --prompt 2000 --output 200 --rate 3/s --json
  baton simulate 2p+2d --hardware made --workload chat --rate 8/s --fail decode-0@60s+20s
  baton simulate --hardware here.json --trace journal.jsonl --what-if 3p+1d --what-if cost
  baton simulate 2p+2d --hardware here.json --trace journal.jsonl --what-if h100"""
_LIVES = 8.0
"""Of requests, one after the other, that a run lasts at least: or no rate is kept up."""


class Row(Figures, frozen=True, kw_only=True):
    """One layout, or what was seen: of that no gaps of single tokens are known, only the means of
    requests, and not who was `busy`."""

    name: str
    busy: dict[str, Estimate]
    """Share of their time, by role."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    workload: str
    ttft_ms: float
    itl_ms: float
    e2e_ms: float | None
    rows: list[Row]
    costs: Costs | None = None
    """Of what happened to workers, where something did: then the first row is without it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _parser().parse_args(None if arguments is None else list(arguments))
    if options.seeds < 1 or options.requests < 1:
        raise ConfigError("--seeds and --requests must be at least 1")
    report = _what_if(options) if options.what_if else _simulated(options)
    if options.json is None:
        _show(report)
    else:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            write_file(Path(options.json), text.encode())
    return 0


def row_of(name: str, runs: Sequence[RunFigures]) -> Row:
    busy = {role: share(run.busy[role] for run in runs) for role in runs[0].busy}
    return Row(name=name, busy=busy, **asdict(figures_of(runs)))


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
        return _report(load.name, wishes, [row_of(name, calm)])
    rows = [row_of(f"{name}, undisturbed", calm), row_of(name, disturbed)]
    return _report(load.name, wishes, rows, costs_of(seen, wishes, happening))


def _what_if(options: argparse.Namespace) -> Report:
    if options.trace is None:
        raise ConfigError("--what-if needs traffic that was: --trace JOURNAL (`baton up --journal "
                          "FILE`)")
    if options.fail or options.join:
        raise ConfigError("--fail and --join need one layout: leave out --what-if")
    if options.rate is not None:
        raise ConfigError("--what-if replays requests as they came: leave out --rate")
    accounts = read_journal(options.trace)
    wishes = read_wishes(options, targets_of(accounts, USUAL))
    kinds, _ = read_kinds(options)
    layout = _base_layout(options.layout, kinds, layout_of(accounts))
    base = Case(name=f"the same, simulated: {layout.name(kinds)}", layout=layout, kinds=kinds)
    cases = [base, *(case_of(text, base) for text in options.what_if)]
    trace = read_trace(options.trace)
    rows = [row_of("really seen", [seen_of(accounts, wishes)])]
    with progress() as tell:
        tell(len(cases) * options.seeds, 0)
        for case in cases:
            runs = []
            for seed in range(options.seed, options.seed + options.seeds):
                runs.append(replayed(case, trace, wishes, seed=seed))
                tell(0, 1)
            rows.append(row_of(case.name, runs))
    return _report(options.trace.name, wishes, rows)


def _base_layout(
    text: str | None, kinds: Sequence[WorkerKind], seen: Layout | None
) -> Layout:
    if text is not None:
        return parse_layout(text, kinds)
    if seen is None:
        raise ConfigError("the journal does not tell which workers there were: give their layout, "
                          "such as 2p+1d")
    return seen


def _report(
    workload: str, wishes: Wishes, rows: list[Row], costs: Costs | None = None
) -> Report:
    return Report(
        workload=workload,
        ttft_ms=1e3 * wishes.ttft,
        itl_ms=1e3 * wishes.itl,
        e2e_ms=None if wishes.e2e is None else 1e3 * wishes.e2e,
        rows=rows,
        costs=costs,
    )


def _show(report: Report) -> None:
    console = Console()
    e2e = "" if report.e2e_ms is None else f", E2E {figure(report.e2e_ms)} ms"
    show_table(
        f"{report.workload}; TTFT {figure(report.ttft_ms)} ms, ITL {figure(report.itl_ms)} ms{e2e}",
        ("", "requests", "/s", "attained", "goodput/s", "TTFT p50", "p95 ms", "ITL p50", "p95 ms",
         "gap p99", "E2E p95", "hits", "handed"),
        [
            (
                row.name, row.requests, figure(row.rate_per_s), f"{row.attainment.value:.1%}",
                figure(row.goodput_per_s.value),
                *(_figure(row.ttft_ms.at(s)) for s in (0.5, 0.95)),
                *(_figure(row.itl_ms.at(s)) for s in (0.5, 0.95)),
                _figure(row.gap_ms.p99) if row.busy else "-", _figure(row.e2e_ms.p95),
                f"{row.hit_rate.value:.0%}", f"{row.handed.value:.0%}",
            )
            for row in report.rows
        ],
    )
    for row in report.rows:
        if row.busy:
            busy = ", ".join(f"{role} {found.value:.0%}" for role, found in row.busy.items())
            console.print(f"busy, {row.name}: {busy}", highlight=False)
    if report.costs is not None:
        _show_costs(report.costs)
    elif len(report.rows) > 2:
        seen, same = report.rows[0].goodput_per_s.value, report.rows[1].goodput_per_s.value
        if seen > 0:
            console.print(
                f"The simulation of what was seen is off by {same / seen - 1:+.1%} in goodput.",
                highlight=False,
            )


def _show_costs(costs: Costs) -> None:
    show_table(
        f"those that arrived from {AROUND[0]:g} s before to {AROUND[1]:g} s after",
        ("", "second", "requests", "attained", "undisturbed", "longest gap ms", "undisturbed"),
        [
            (each.what, "" if each.at_s is None else figure(each.at_s), each.requests,
             *("-" if share is None else f"{share.value:.1%}"
               for share in (each.attained, each.undisturbed)),
             *("-" if gap is None else figure(gap)
               for gap in (each.longest_gap_ms, each.undisturbed_gap_ms)))
            for each in costs.moments
        ],
    )
    reasons = ", ".join(f"{reason} {count}" for reason, count in costs.retries.items())
    Console().print(
        f"sent to another worker, per run: {figure(costs.retried.value)} requests"
        + (f" ({reasons} in all)" if reasons else ""), highlight=False,
    )


def _figure(found: Estimate | None) -> str:
    return "-" if found is None else figure(found.value)


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

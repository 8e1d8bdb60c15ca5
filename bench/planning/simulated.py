"""What `baton simulate` found: rows of figures, as JSON and as tables."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import asdict
from rich.console import Console

from baton.bench.planning.estimates import share
from baton.bench.planning.event_costs import Costs
from baton.bench.planning.events import AROUND
from baton.bench.planning.figures import figure
from baton.bench.planning.outcomes import figures_of
from baton.bench.planning.plan import Estimate, Figures
from baton.bench.planning.run import RunFigures
from baton.bench.planning.wishes import Wishes
from baton.bench.report import show_table


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
    costs: list[Costs] = []
    """Of what happened to workers, of each row in which something did; the row before it is the
    same without."""


def row_of(name: str, runs: Sequence[RunFigures]) -> Row:
    busy = {role: share(run.busy[role] for run in runs) for role in runs[0].busy}
    return Row(name=name, busy=busy, **asdict(figures_of(runs)))


def report_of(
    workload: str, wishes: Wishes, rows: list[Row], costs: Sequence[Costs] = ()
) -> Report:
    return Report(
        workload=workload,
        ttft_ms=1e3 * wishes.ttft,
        itl_ms=1e3 * wishes.itl,
        e2e_ms=None if wishes.e2e is None else 1e3 * wishes.e2e,
        rows=rows,
        costs=list(costs),
    )


def show(report: Report) -> None:
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
    for costs in report.costs:
        _show_costs(costs)
    if len(report.rows) > 2:
        seen, same = report.rows[0].goodput_per_s.value, report.rows[1].goodput_per_s.value
        if seen > 0:
            console.print(
                f"The simulation of what was seen is off by {same / seen - 1:+.1%} in goodput.",
                highlight=False,
            )


def _show_costs(costs: Costs) -> None:
    show_table(
        f"{costs.of}: those that arrived from {AROUND[0]:g} s before to {AROUND[1]:g} s after",
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

"""A plan in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from baton.bench.planning.figures import around, figure
from baton.bench.planning.plan import Plan, nearest_share
from baton.protocol.units import format_bytes, format_duration


def show(plan: Plan, console: Console) -> None:
    question, load = plan.question, plan.load
    rate = "as many as can be" if question.rate_per_s is None else (
        f"{figure(question.rate_per_s)} requests/s"
    )
    e2e = "" if question.e2e_ms is None else f", E2E {format_duration(question.e2e_ms / 1e3)}"
    console.print(
        f"{question.workload}: {rate}; prompts of {load.prompt_tokens:.0f} tokens"
        + (f" ({load.cached_tokens:.0f} shared)" if load.cached_tokens else "")
        + f", answers of {load.output_tokens:.0f}; TTFT {format_duration(question.ttft_ms / 1e3)}, "
        f"ITL {format_duration(question.itl_ms / 1e3)}{e2e} for {question.attainment:.0%}; "
        f"{question.gpus} GPU{'s' if question.gpus > 1 else ''}",
        highlight=False,
    )
    for kind in plan.kinds:
        error = "" if kind.error is None else f", median error {kind.error:.0%}"
        console.print(f"[dim]{kind.name}: {kind.origin}{error}; {kind.note}[/]", highlight=False)
    if plan.hosts is not None:
        console.print(f"[dim]{plan.hosts}[/]", highlight=False)
    console.print(_choices(plan))
    console.print(_pools(plan))
    console.print(f"[bold]{plan.verdict}[/]", highlight=False)
    if plan.infeasible is not None:
        console.print(f"[bold red]infeasible[/] ({plan.infeasible.constraint}): "
                      f"{plan.infeasible.text}", highlight=False)
        _list(console, "nearest, one change each", [n.text for n in plan.infeasible.nearest])
    _list(console, "if it were otherwise", [change.text for change in plan.sensitivity])
    _list(console, "break-even", [entry.text for entry in plan.break_even])
    _list(console, "notes", plan.notes)


def _choices(plan: Plan) -> Table:
    wanted = nearest_share(plan.question.attainment)
    table = Table(title="plans, the best first; 95 % intervals over seeds")
    by_cost = plan.question.ranked_by == "cost"
    table.add_column("layout")
    table.add_column("shape")
    for column in (
        "GPUs", "capacity/s", "per GPU", *(["per cost"] if by_cost else []), "at/s", "attained",
        f"TTFT p{wanted * 100:.0f} ms", f"ITL p{wanted * 100:.0f} ms", "gap p99 ms",
    ):
        table.add_column(column, justify="right")
    table.add_column("ends it")
    for choice in plan.choices:
        seen = choice.simulated
        table.add_row(
            choice.name, choice.shape, str(choice.gpus),
            figure(choice.capacity_per_s) if seen is None else around(seen.capacity_per_s),
            figure(choice.goodput_per_gpu),
            *([figure(choice.goodput_per_cost or 0)] if by_cost else []),
            *(("", "", "", "", "") if seen is None else (
                figure(seen.rate_per_s), f"{seen.attainment.value:.1%}",
                around(seen.ttft_ms.at(wanted)), around(seen.itl_ms.at(wanted)),
                around(seen.gap_ms.p99),
            )),
            choice.binds, style="" if choice.feasible else "dim",
        )
    return table


def _pools(plan: Plan) -> Table:
    table = Table(title="their workers")
    for column in ("layout", "role"):
        table.add_column(column)
    for column in ("workers", "devices each", "busy", "batch up to", "chunk up to", "KV moved",
                   "of the links", "delays"):
        table.add_column(column, justify="right")
    for choice in plan.choices:
        for number, pool in enumerate(choice.pools):
            moved = choice.traffic if number == 0 else None
            table.add_row(
                choice.name if number == 0 else "", pool.role, str(pool.workers),
                str(pool.devices), "" if pool.busy is None else f"{pool.busy.value:.0%}",
                str(pool.batch_limit) if pool.batch_limit else "", f"{pool.chunk}",
                *(("", "", "") if moved is None else (
                    f"{format_bytes(moved.bytes_per_s)}/s", f"{moved.share:.0%}",
                    f"{figure(moved.exposed_ms)} ms",
                )),
            )
    return table


def _list(console: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        console.print(f"[bold]{title}[/]")
        for line in lines:
            console.print(f"  {line}", highlight=False, markup=False)



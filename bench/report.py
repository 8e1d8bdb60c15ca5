"""Tables of benchmarks, and criteria as rows "wanted / seen"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from baton.bench.results import Row


def at_least(what: str, wanted: float, seen: float, digits: int = 3) -> Row:
    return Row(what, f">= {wanted:g}", f"{seen:.{digits}f}", seen >= wanted)


def at_most(what: str, wanted: float, seen: float, digits: int = 3) -> Row:
    return Row(what, f"<= {wanted:g}", f"{seen:.{digits}f}", seen <= wanted)


def show_rows(rows: Sequence[Row]) -> bool:
    """Whether all hold."""
    table = Table(title="wanted and seen")
    for column in ("", "wanted", "seen", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(row.what, row.wanted, row.seen, "yes" if row.holds else "[bold red]NO[/]")
    console().print(table)
    return all(row.holds for row in rows)


def show_table(title: str, columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """The first column is text, the others are figures."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for line in lines:
        table.add_row(*(str(cell) for cell in line))
    console().print(table)


def show_ran(ran: Mapping[str, Any]) -> None:
    """One line on what it ran on."""
    console().print(
        f"{ran['cpu']}, {ran['cores']} cores, torch {ran['torch']}, commit {ran['commit']}; "
        f"{ran['command']}",
        markup=False,
    )


def console() -> Console:
    """As wide as tables need where the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=140)

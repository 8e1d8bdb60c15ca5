"""Criteria as rows "wanted / seen", tables, and results as JSON with what they ran on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from baton.bench.machine import describe


@dataclass(frozen=True)
class Row:
    """One criterion."""

    what: str
    wanted: str
    seen: str
    holds: bool


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
    _console().print(table)
    return all(row.holds for row in rows)


def show_table(title: str, columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for line in lines:
        table.add_row(*(str(cell) for cell in line))
    _console().print(table)


def write_json(path: Path | None, rows: Sequence[Row], results: dict[str, Any]) -> None:
    """Nothing without a path."""
    if path is None:
        return
    document = {"ran": describe(), "rows": [asdict(row) for row in rows], **results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def _console() -> Console:
    """As wide as tables need where the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=140)

"""Traces that are CSV, told apart by the columns in their first line.

| whose | columns: when, tokens of prompt and of output | when |
|---|---|---|
| Azure's, as published | TIMESTAMP, ContextTokens, GeneratedTokens | date and time |
| Azure's, in simulators | arrived_at, num_prefill_tokens, num_decode_tokens | seconds |
| BurstGPT's | Timestamp, Request tokens, Response tokens | seconds |

Further columns do not matter: BurstGPT's first release has no `Session ID` and no `Elapsed time`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from baton.bench.workloads.traced import Malformed, Traced, number_of, tokens_of


class Columns(NamedTuple):
    at: str
    prompt: str
    output: str
    fails: bool = False
    """Requests that failed are in it, with 0 output tokens."""


KNOWN = (
    Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    Columns("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    Columns("Timestamp", "Request tokens", "Response tokens", fails=True),
)


def from_csv(lines: Iterable[str]) -> Iterator[Traced]:
    """In the order of the file; those that failed are left out. Raises Malformed."""
    rows = csv.reader(lines)
    try:
        header = [name.strip() for name in next(rows, [])]
        columns = _columns(header)
        places = [header.index(name) for name in columns[:3]]
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            line = rows.line_num
            at, prompt, output = (
                _cell(row, place, line, name)
                for place, name in zip(places, columns[:3], strict=True)
            )
            wanted = 0 if columns.fails else 1
            generated = tokens_of(output, line, _named(columns.output), least=wanted)
            if generated:
                yield Traced(_seconds(at, line, _named(columns.at)),
                             tokens_of(prompt, line, _named(columns.prompt)), generated)
    except csv.Error as error:
        raise Malformed(rows.line_num, "", str(error)) from error


def _columns(header: list[str]) -> Columns:
    """The known ones that these are nearest to. Raises Malformed for one that is missing."""
    columns = next((each for each in KNOWN if each.at in header), None)
    if columns is None:
        times = ", ".join(each.at for each in KNOWN)
        raise Malformed(1, "", f"no column of times: one of {times} (CSV); or JSON lines")
    missing = [name for name in columns[:3] if name not in header]
    if missing:
        raise Malformed(1, "", f"with {columns.at} there must be columns {missing[0]}")
    return columns


def _cell(row: list[str], place: int, line: int, name: str) -> str:
    text = row[place].strip() if place < len(row) else ""
    if not text:
        raise Malformed(line, _named(name), "is empty")
    return text


def _seconds(text: str, line: int, where: str) -> float:
    """Seconds as they are, or those of a date and time, which is UTC where it does not say."""
    try:
        when = datetime.fromisoformat(text) if "-" in text[1:] and ":" in text else None
    except ValueError as error:
        raise Malformed(line, where, f"{text!r} is no date and time: {error}") from error
    if when is None:
        return number_of(text, line, where)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _named(column: str) -> str:
    return f"column {column!r}"

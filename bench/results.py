"""One format for what benchmarks found: a line of JSON per result, appended to a file.

    settings   what was chosen: model, load, rounds; results of the same bench and settings compare
    metrics    what was found: figures, also nested; the unit is in the name (`_ms`, `_seconds`)
    series     lists of points behind the figures, for tables and plots
    rows       criteria as "wanted" and "seen"
    ran        commit, machine, versions, command, time

Of results with the same bench and settings the last one counts (`latest`), so a file is its own
history. This module imports no torch before something was measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from baton.protocol.errors import ConfigError

SCHEMA = 1
"""1: the first."""
_PRINT = "-"


class Row(msgspec.Struct, frozen=True):
    """One criterion."""

    what: str
    wanted: str
    seen: str
    holds: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a benchmark found, as plain values."""

    schema: int = SCHEMA
    bench: str
    """As it is called, without "baton bench": "transfer", "routing suite"."""
    ran: dict[str, Any]
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    metrics: dict[str, Any] = msgspec.field(default_factory=dict)
    rows: list[Row] = msgspec.field(default_factory=list)
    series: dict[str, list[Any]] = msgspec.field(default_factory=dict)

    @property
    def key(self) -> bytes:
        """The same for results of which the last one counts."""
        return msgspec.json.encode([self.bench, self.settings], order="deterministic")


def found(
    bench: str,
    *,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
    rows: Sequence[Row] = (),
    series: Mapping[str, Sequence[Any]] | None = None,
    versions: Mapping[str, str] | None = None,
    ran: Mapping[str, Any] | None = None,
) -> Result:
    """The result of this process, now. `versions`: of what mattered besides what `describe()`
    names: other packages, servers of others. `ran`: of `describe()` when the run began, for a run
    with many results."""
    if ran is None:
        from baton.bench.machine import describe

        ran = describe()
    return Result(
        bench=bench,
        ran={**ran, "versions": {**ran.get("versions", {}), **(versions or {})}},
        settings=dict(settings),
        metrics=dict(metrics or {}),
        rows=list(rows),
        series={name: list(points) for name, points in (series or {}).items()},
    )


# -- files -----------------------------------------------------------------------------------


def append(path: Path | str, result: Result) -> None:
    """As one more line; folder and file are made where they are missing. Raises ConfigError."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(encode(result) + b"\n")
    except OSError as error:
        sys.stdout.write(encode(result).decode() + "\n")  # a run is not lost for a full disk
        raise ConfigError(f"cannot write {path}: {error.strerror}; printed instead") from error


def read(path: Path | str) -> list[Result]:
    """All results of a file, as they were appended. Raises ConfigError for one that is not there,
    is none, or is of a later version."""
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    return [_decode(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def latest(results: Iterable[Result]) -> list[Result]:
    """Of each bench and settings the last one, in the order in which these were first there."""
    kept: dict[bytes, Result] = {}
    for result in results:
        kept[result.key] = result
    return list(kept.values())


def encode(result: Result) -> bytes:
    """One line, without its end. Infinite and undefined figures become null."""
    return msgspec.json.encode(result)


def _decode(line: bytes, where: str) -> Result:
    try:
        result = msgspec.json.decode(line, type=Result)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{where} is no result: {error}") from error
    if result.schema > SCHEMA:
        raise ConfigError(f"{where} has version {result.schema}; this Baton reads up to {SCHEMA}")
    return result


# -- the option of all benchmarks ------------------------------------------------------------


def add_json(parser: argparse.ArgumentParser, usual: Path | str = _PRINT) -> None:
    """`--json [FILE]`: append to FILE; without one to `usual`, or print instead of a table."""
    without = "print it" if usual == _PRINT else f"to {usual}"
    parser.add_argument("--json", nargs="?", const=str(usual), metavar="FILE",
                        help=f"append the result to FILE, as a line of JSON; no FILE: {without}")


def deliver(result: Result, where: str | None) -> bool:
    """To where `--json` said. Whether it was printed, so that nothing else should be."""
    if where == _PRINT:
        sys.stdout.write(encode(result).decode() + "\n")
        return True
    if where is not None:
        append(where, result)
    return False


def chosen(options: argparse.Namespace, *without: str) -> dict[str, Any]:
    """The options as settings, `--json` and those named left out."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if name not in ("json", *without)
    }

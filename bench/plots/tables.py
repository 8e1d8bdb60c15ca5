"""Results as tables of text, for pages: one function for each kind, and one for all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from baton.bench.plots.comparison import standings_of
from baton.bench.results import Result

_MOST_ROWS = 40
_CARRIERS = ("ucxx", "libucx", "pyzmq")
"""Packages that carry what is measured between processes."""


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    """The first is text, the others are figures."""
    lines: Sequence[tuple[str, ...]]


def tables(results: Sequence[Result]) -> list[Table]:
    """Of results of the same bench."""
    if not results:
        return []
    made = _KINDS.get(results[0].bench, _any)(results)
    return [table for table in made if table.lines]


def criteria(results: Sequence[Result]) -> Table:
    """Wanted and seen, of all results."""
    return Table("wanted and seen", ("", "wanted", "seen", "holds"), [
        (row.what, row.wanted, row.seen, "yes" if row.holds else "**no**")
        for result in results for row in result.rows
    ])


def ran_with(result: Result) -> str:
    """Versions of what carries bytes, and of servers of others, each after a comma."""
    versions = result.ran.get("versions") or {}
    names = (*_CARRIERS, *result.settings.get("layouts", ()))
    return "".join(f", {name} {versions[name]}" for name in names if name in versions)


def _engine(results: Sequence[Result]) -> Iterator[Table]:
    for result in results:
        lines = []
        for dtype in result.series["dtypes"]:
            for step in dtype["steps"]:
                what = (f"decode, batch {step['batch']}" if step["stage"] == "decode"
                        else f"prefill, {step['tokens']} tokens")
                lines.append((f"{dtype['dtype']}, {what}", _f(step["ms"]["median"]),
                              _f(step["ms"]["best"]), _f(step["tokens_per_second"], 0)))
            lines.append((f"{dtype['dtype']}, reading the weights once",
                          _f(dtype["weight_read_ms"]["median"]),
                          _f(dtype["weight_read_ms"]["best"]), ""))
        yield Table(f"Steps of {result.settings['model']}, {result.settings['threads']} threads",
                    ("step", "median ms", "best ms", "tokens/s"), lines)


def _transfer(results: Sequence[Result]) -> Iterator[Table]:
    for result in results:
        yield Table(
            f"GB/s, median of {result.settings['rounds']} rounds",
            ("blocks", "chosen", "GB/s", "contiguous, the same way", "NIXL", "memory copy"),
            [(case["case"], case["chosen"], _f(case["schemes"][case["chosen"]]["gb_per_s"]),
              _f(case["contiguous"]["gb_per_s"]), _f(case.get("nixl_gb_per_s")),
              _f(case["memcpy_gb_per_s"])) for case in result.series["cases"]],
        )


def _faults(results: Sequence[Result]) -> Iterator[Table]:
    yield Table(
        "Faults", ("fault", "model", "in flight", "failed", "changed", "noticed s",
                   "longest stall s", "its limit s", "held"),
        [(each.settings["fault"], each.settings["model"], *(
            _f(each.metrics.get(name)) for name in
            ("in_flight", "failed", "changed", "detection", "stall", "stall_limit")
        ), "yes" if each.metrics["held"] else "**no**") for each in results],
    )


def _decision(results: Sequence[Result]) -> Iterator[Table]:
    for result in results:
        yield Table(
            "Microseconds of a decision, median", ("workers", "candidates", "decide", "together"),
            [(str(row["workers"]), *(_f(row[f"{name}_us"]["median"], 1)
                                     for name in ("candidates", "decide", "together")))
             for row in result.series["decision"]],
        )


def _compare(results: Sequence[Result]) -> Iterator[Table]:
    for result in results:
        yield Table(
            f"{result.settings['load']}, targets {1e3 * result.settings['ttft']:g} ms and "
            f"{1e3 * result.settings['itl']:g} ms{_e2e(result.settings)}, "
            f"{result.settings['repeat']} times each",
            ("layout", "requests/s", "goodput/s", "in time", "TTFT mean ms", "TTFT P99 ms",
             "ITL P50 ms", "ITL P99 ms", "tokens/s"),
            [(each.layout, f"{each.rate:g}", _f(each.mid("goodput_per_s")),
              f"{each.mid('attainment'):.1%}", _f(each.mid("ttft_mean_ms"), 0),
              _f(each.mid("ttft_p99_ms"), 0), _f(each.mid("itl_p50_ms"), 1),
              _f(each.mid("itl_p99_ms"), 1), _f(each.mid("output_tokens_per_s"), 0))
             for each in standings_of(result)],
        )


def _e2e(settings: Mapping[str, Any]) -> str:
    e2e = settings.get("e2e")
    return "" if e2e is None else f" ({1e3 * e2e:g} ms to the last token)"


def _any(results: Sequence[Result]) -> Iterator[Table]:
    """All single figures, named by where they are."""
    for result in results:
        settings = ", ".join(f"{name} {value}" for name, value in _flat(result.settings)
                             if value not in ("", "None") and len(value) < 60)
        lines = [line for line in _flat(result.metrics) if len(line[1]) < 200]
        yield Table(settings, ("", "value"), lines[:_MOST_ROWS])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}, ")
        elif isinstance(value, float):
            yield label, _f(value, 3)
        elif not isinstance(value, list):
            yield label, str(value)


def _f(value: float | None, digits: int = 2) -> str:
    if value is None or value != value:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


_KINDS: dict[str, Callable[[Sequence[Result]], Iterator[Table]]] = {
    "engine": _engine, "transfer": _transfer, "faults": _faults, "routing decision": _decision,
    "compare": _compare,
}

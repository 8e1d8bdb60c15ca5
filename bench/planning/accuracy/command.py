"""`baton bench planner`: the planner's errors against published measurements and closed forms.

    --distserve FILE   DistServe's fits: its worked example, and M/D/1 with its step times
    --silicon FILE     a table of measured runs: TTFT and TPOT of clients in a closed loop,
                       predicted from measured kernels (where installed) and from a roofline

The constants of both sources were fitted to every 12th row of that table; errors are of the others.
`--fit` fits them again and shows what it finds. Where kernels are installed, their own planner's
answer to one case stands beside ours. Without FILEs M/D/1 is that of a made-up machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from baton.bench.planning.accuracy import configurator
from baton.bench.planning.accuracy.distserve import (
    COLOCATED,
    MODEL,
    PER_GPU,
    READS,
    WRITES,
    Example,
    example,
)
from baton.bench.planning.accuracy.queue import Queue, queue
from baton.bench.planning.accuracy.rows import SiliconRow, fitted_and_others, read_rows
from baton.bench.planning.accuracy.sources import (
    Curves,
    Errors,
    Judged,
    errors,
    judge,
    roofline_curves,
    silicon_curves,
)
from baton.bench.planning.hardware.kinds import MADE, worker_kinds
from baton.bench.planning.hardware.silicon import INSTALL, installed
from baton.bench.report import at_most, show_ran, show_rows, show_table
from baton.bench.results import Row, add_json, chosen, deliver, found

CLOSED_FORM = 0.03
READ_OFF = 0.10
"""For figures that the paper gives to one digit, read off a plot of another engine."""
SAME_KERNELS = 0.05
MEDIAN, P90 = 0.12, 0.30
LOADS = (0.3, 0.6, 0.8)
_PROMPT = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if all criteria hold, else 1. Raises ConfigError."""
    options = _options(arguments)
    rows: list[Row] = []
    metrics: dict[str, Any] = {}
    series: dict[str, list[Any]] = {}
    hardware = MADE if options.distserve is None else f"{options.distserve}:{MODEL}:1"
    machine = worker_kinds(hardware)[0].machine
    queues = [
        queue(machine, _PROMPT, load, options.requests, options.seed) for load in LOADS
    ]
    rows += queue_rows(queues)
    metrics["md1_ms"] = [_ms(entry) for entry in queues]
    published = None
    if options.distserve is not None:
        published = example(machine, 3 * options.requests)
        rows += example_rows(published)
        metrics["distserve"] = {
            "planner": published.planner._asdict(), "simulated": published.simulated._asdict(),
            **{name: getattr(published, name) for name in Example._fields[2:]},
        }
    theirs = configurator.case() if installed() else None
    if theirs is not None:
        rows += case_rows(theirs)
        metrics["configurator"] = msgspec.to_builtins(theirs._asdict(), str_keys=True)
    tables: list[tuple[str, list[Judged], list[str]]] = []
    if options.silicon is not None:
        measured, others = fitted_and_others(read_rows(options.silicon))
        if options.fit:
            metrics["fitted"] = refit(measured)
        for source, curves in _sources():
            judged, missing = judge(others, curves)
            tables.append((source, judged, missing))
            metrics[source] = _by_engine(judged)
            rows += source_rows(source, judged)
            series[source] = [
                {"id": one.row.name, "ttft_error": one.ttft, "tpot_error": one.tpot}
                for one in judged
            ]
    result = found("planner", settings=chosen(options), metrics=metrics, rows=rows, series=series)
    if deliver(result, options.json):
        return 0 if all(row.holds for row in rows) else 1
    show_ran(result.ran)
    _show_queues(queues)
    if published is not None:
        _show_example(published)
    if theirs is not None:
        _show_case(theirs)
    for source, judged, missing in tables:
        _show_source(source, judged, missing)
    if options.silicon is not None and not installed():
        print(f"no measured kernels: {INSTALL}")
    for name, value in metrics.get("fitted", {}).items():
        print(f"fitted: {name}: {value}")
    return 0 if show_rows(rows) else 1


def queue_rows(queues: Iterable[Queue]) -> list[Row]:
    """Of both the planner and the simulated worker."""
    rows = []
    for entry in queues:
        rows += [
            at_most(f"M/D/1 at load {entry.load:g}, {name}: error of the mean TTFT", CLOSED_FORM,
                    abs(value / entry.formula - 1))
            for name, value in (("planner", entry.planner), ("simulated", entry.simulated))
        ]
    return rows


def example_rows(seen: Example) -> list[Row]:
    return [
        _near("reads only, planner against simulation, req/s", seen.simulated.reads,
              seen.planner.reads, CLOSED_FORM),
        _near("writes only, planner against simulation, req/s", seen.simulated.writes,
              seen.planner.writes, CLOSED_FORM),
        _near(f"two that read {READS} and one that writes {WRITES:g}, req/s per GPU", PER_GPU,
              seen.slowed_split / 3, CLOSED_FORM),
        _near(f"colocated, of a machine that reads {READS} and writes {WRITES:g}, req/s",
              COLOCATED, seen.slowed_colocated, READ_OFF),
    ]


def case_rows(seen: configurator.Case) -> list[Row]:
    """Of the same kernels, with their factors."""
    return [
        *(
            _near(f"aiconfigurator, colocated TP{size}, tok/s per GPU", wanted,
                  seen.colocated[size], SAME_KERNELS)
            for size, wanted in configurator.COLOCATED.items()
        ),
        _near("aiconfigurator, two TP1 read and one TP2 writes, tok/s per GPU",
              configurator.SPLIT, seen.split_as_theirs, SAME_KERNELS),
    ]


def source_rows(source: str, judged: Sequence[Judged]) -> list[Row]:
    rows = []
    for name in ("ttft", "tpot"):
        of = errors(getattr(one, name) for one in judged)
        rows += [
            at_most(f"{source}, {name.upper()}: median error", MEDIAN, of.median),
            at_most(f"{source}, {name.upper()}: 90th percentile", P90, of.p90),
        ]
    return rows


def refit(measured: Sequence[SiliconRow]) -> dict[str, str]:
    """The constants as these rows give them."""
    from baton.bench.planning.accuracy.fitting import fit_efficiency, fit_hosts
    from baton.bench.planning.hardware.roofline import Efficiency

    fitted = {"roofline": str(fit_efficiency(measured, Efficiency()))}
    if installed():
        fitted |= {engine: str(value) for engine, value in fit_hosts(measured).items()}
    return fitted


# -- inside ----------------------------------------------------------------------------------


def _sources() -> list[tuple[str, Curves]]:
    sources = [("roofline", roofline_curves())]
    if installed():
        sources.insert(0, ("silicon", silicon_curves()))
    return sources


def _by_engine(judged: Sequence[Judged]) -> dict[str, dict[str, dict[str, float]]]:
    """All, each engine, and of each engine the rows whose distribution of lengths is known."""
    groups: dict[str, list[Judged]] = {"all": list(judged)}
    for engine in sorted({one.row.engine for one in judged}):
        mine = [one for one in judged if one.row.engine == engine]
        groups[engine] = mine
        groups[f"{engine}, lengths known"] = [one for one in mine if one.row.varied]
    return {
        group: {
            name: errors(getattr(one, name) for one in members)._asdict()
            for name in ("ttft", "tpot")
        }
        for group, members in groups.items() if members
    }


def _near(what: str, wanted: float, seen: float, within: float) -> Row:
    return Row(what, f"{wanted:.4g} +- {within:.0%}", f"{seen:.4g}",
               abs(seen / wanted - 1) <= within)


def _ms(entry: Queue) -> dict[str, float]:
    return {
        "load": entry.load,
        **{name: getattr(entry, name) * 1e3 for name in ("formula", "planner", "simulated")},
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench planner",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--distserve", type=Path, metavar="FILE")
    parser.add_argument("--silicon", type=Path, metavar="FILE")
    parser.add_argument("--fit", action="store_true", help="the constants, again; some minutes")
    parser.add_argument("--requests", type=int, default=1000, help="of each simulated queue")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.requests < 50:
        parser.error(f"--requests must be at least 50, got {options.requests}")
    if options.fit and options.silicon is None:
        parser.error("--fit needs the rows to fit to: --silicon FILE")
    return options


# -- showing ---------------------------------------------------------------------------------


def _show_queues(queues: Iterable[Queue]) -> None:
    show_table("M/D/1, mean TTFT in ms", ("load", "formula", "planner", "simulated"), [
        (f"{entry.load:g}", *(f"{value * 1e3:.2f}" for value in entry[1:])) for entry in queues
    ])


def _show_example(seen: Example) -> None:
    show_table(
        "OPT-13B, 512 / 64, nine in ten within 0.4 s and 0.04 s: req/s",
        ("", "published", "the fits as they are", "slowed to the published"),
        [
            ("reads only, a GPU", READS, f"{seen.planner.reads:.2f}", f"{READS} (x "
             f"{seen.slower_reads:.2f})"),
            ("writes only, a GPU", WRITES, f"{seen.planner.writes:.2f}", f"{WRITES:g} (x "
             f"{seen.slower_writes:.2f})"),
            ("colocated, a GPU", COLOCATED, f"{seen.colocated:.2f}",
             f"{seen.slowed_colocated:.2f}"),
            ("two read, one writes, three GPUs", WRITES, "", f"{seen.slowed_split:.2f}"),
        ],
    )


def _show_case(seen: configurator.Case) -> None:
    lines = [
        (f"colocated TP{size}", f"{wanted:.0f}", f"{seen.colocated[size]:.0f}",
         f"{seen.colocated[size]:.0f}", f"{seen.colocated_hosted[size]:.0f}")
        for size, wanted in configurator.COLOCATED.items()
    ]
    lines.append(("two TP1 read, one TP2 writes", f"{configurator.SPLIT:.0f}",
                  f"{seen.split_as_theirs:.0f}", f"{seen.split:.0f}", f"{seen.split_hosted:.0f}"))
    show_table(
        "Llama-3.1-8B on H200, 4000 / 500, 15 ms a token: output tok/s per GPU",
        ("", "aiconfigurator", "with its factors", "kernels alone", "and the host"), lines,
    )


def _show_source(source: str, judged: Sequence[Judged], missing: Sequence[str]) -> None:
    lines = []
    for engine, times in _by_engine(judged).items():
        cells: list[str] = []
        for name in ("ttft", "tpot"):
            of = Errors(**times[name])  # type: ignore[arg-type]
            cells += [f"{of.median:.1%}", f"{of.p90:.1%}", f"{of.bias:+.1%}"]
        lines.append((engine, int(times["ttft"]["rows"]), *cells))
    show_table(
        f"{source}: |predicted / measured - 1| of rows that nothing was fitted to",
        ("", "rows", "TTFT median", "p90", "bias", "TPOT median", "p90", "bias"), lines,
    )
    if missing:
        print(f"{len(missing)} rows are not known to it, the first: {missing[0]}")

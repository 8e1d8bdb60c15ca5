"""`baton bench faults`: the whole matrix of faults, on a tiny random model with many requests in
flight and on the embedded model with few; float32, greedy, compared with an undisturbed run.

Columns: requests in flight; failed ones (of these typed); outputs that changed (near ties apart);
seconds until the fault was noticed, until its requests were sent again, of the longest stall of a
stream, with its bound; what workers still hold afterwards.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from baton.bench.faults.judge import Oracle, Verdict
from baton.bench.faults.load import Ask, random_asks, story_asks
from baton.bench.faults.matrix import Scale, Skipped, cases, run
from baton.bench.faults.parts import PartFailed, Plan
from baton.bench.machine import describe
from baton.bench.report import show_ran
from baton.bench.results import Result, Row, add_json, deliver, found
from baton.bench.tiny_model import make_tiny_model

RESULTS = Path("bench/results/faults.jsonl")


def measure(
    model: str, scale: Scale, *, only: str, seed: int, console: Console, folder: Path
) -> Iterator[dict[str, Any]]:
    """All cases with one model: "tiny" (written into `folder`), "embedded", or as for `baton up`.
    Verdicts as plain values, as they come."""
    path, asks = _load_for(model, scale.in_flight, seed, folder)
    base = Plan(model=path)
    oracle: Oracle | None = None
    for case in cases():
        began = time.monotonic()
        try:
            for verdict, learned in run(
                case, base, asks, scale, seed=seed, only=only, oracle=oracle
            ):
                oracle = learned
                _tell(console, verdict, time.monotonic() - began)
                yield {"model": model, "cluster": case.name, **verdict.to_dict()}
        except Skipped as skipped:
            console.print(f"[yellow]SKIPPED[/] {case.name}: {skipped}")
        except (PartFailed, RuntimeError) as failure:
            verdict = Verdict(case.name, problems=[str(failure)])
            _tell(console, verdict, time.monotonic() - began)
            yield {"model": model, "cluster": case.name, **verdict.to_dict()}


def _load_for(
    model: str, in_flight: int, seed: int, folder: Path
) -> tuple[str | None, Sequence[Ask]]:
    """The model's path, and half as many requests again as are in flight at a time."""
    count = in_flight + in_flight // 2
    if model == "tiny":
        path = make_tiny_model(folder / "tiny", max_position=1024)
        return str(path), random_asks(count, seed=seed, output=(200, 400))
    named = None if model == "embedded" else model
    return named, story_asks(named, count, seed=seed)


def _tell(console: Console, verdict: Verdict, seconds: float) -> None:
    mark = "[green]held[/]" if verdict.held else "[red]FAILED[/]"
    stall = "" if verdict.stall is None else f"longest stall {verdict.stall:.2f} s; "
    console.print(f"{mark} {verdict.fault} [dim]({stall}cluster up {seconds:.0f} s)[/]")
    for text in (*verdict.problems, *verdict.late):
        console.print("   " + text[:2000], markup=False, highlight=False)


def as_result(
    row: dict[str, Any], settings: Mapping[str, Any], ran: Mapping[str, Any]
) -> Result:
    """One fault, one result: a run that is cut short has all that came before."""
    told = {name: row[name] for name in ("model", "cluster", "fault")}
    problems = "; ".join((*row["problems"], *row["late"]))[:500]
    return found(
        "faults",
        settings={**told, **settings},
        metrics={name: value for name, value in row.items() if name not in told},
        rows=[Row(row["fault"], "held", problems or "held", row["held"])],
        ran=ran,
    )


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Faults")
    table.add_column("fault")
    for name in ("model", "in flight", "failed", "changed", "ties", "noticed s", "sent again s",
                 "stall s", "bound s", "left", "held"):
        table.add_column(name, justify="right")
    for row in rows:
        failed = f"{row['failed']} ({row['typed']} typed)" if row["failed"] else "0"
        table.add_row(
            row["fault"], row["model"], str(row["in_flight"]), failed, str(row["changed"]),
            str(row["ties"]), _seconds(row["detection"]), _seconds(row["redispatch"]),
            _seconds(row["stall"]), _seconds(row["stall_limit"]),
            str(len(row["left"])), "yes" if row["held"] else "NO",
        )
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="baton bench faults", description=__doc__)
    parser.add_argument("--model", action="append",
                        help="tiny, embedded, or as for `baton up`; repeat. Default: both")
    parser.add_argument("--only", default="", help="faults whose name, as of --list, contains this")
    parser.add_argument("--list", action="store_true", help="show the names and end")
    parser.add_argument("--in-flight", type=int, help="default: 200, and 16 of a real model")
    parser.add_argument("--rounds", type=int, default=Scale.__dataclass_fields__["rounds"].default,
                        help="kills of each role, and loads over bad links")
    parser.add_argument("--cancels", type=int, help="default: 10000, and 500 of a real model")
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser, RESULTS)
    options = parser.parse_args(argv)
    console = Console()
    console.width = max(console.width, 140)  # also into a file
    names = [name for case in cases() for name, _ in case.faults]
    if not any(options.only in name for name in names):
        parser.error(f"no fault's name contains {options.only!r}; there are {', '.join(names)}")
    if options.list:
        for case in cases():
            console.print(f"{case.name}: {', '.join(name for name, _ in case.faults)}")
        return 0
    rows: list[dict[str, Any]] = []
    ran = describe()
    for model in options.model or ("tiny", "embedded"):
        tiny = model == "tiny"
        scale = Scale(
            in_flight=options.in_flight or (200 if tiny else 16),
            rounds=options.rounds,
            cancels=options.cancels or (10_000 if tiny else 500),
        )
        with tempfile.TemporaryDirectory(prefix="baton-faults-") as folder:
            for row in measure(model, scale, only=options.only, seed=options.seed,
                               console=console, folder=Path(folder)):
                rows.append(row)
                settings = {"dtype": "float32", "seed": options.seed, "rounds": options.rounds,
                            "in_flight": scale.in_flight, "cancels": scale.cancels}
                deliver(as_result(row, settings, ran), options.json)
    console.print(table_of(rows))
    show_ran(ran)
    return 0 if rows and all(row["held"] for row in rows) else 1

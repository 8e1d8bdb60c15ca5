"""`baton bench map`: who wins over prompt length, output length and load, and the planner's border.

At each place the best split is set against the best colocated layout: goodput over goodput, over
repetitions with the same requests for both. Where their interval decides, the planner is right,
wrong, or sees a tie; places that are open say nothing of it. Loads are shares of what the best
layout could carry, by the planner. In simulated time by default; with --real on real workers of
this machine, whose profile (`baton profile`) the planner then reads. Ctrl-C ends it early, and
keeps the places that were measured.

  baton bench map --machine profile.json --json map.jsonl
  baton bench map --machine profile.json --real --prompts 128 1024 --outputs 16 128 --loads 0.9
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace

import msgspec

from baton.bench.compare import layouts as making
from baton.bench.compare import options as reading
from baton.bench.compare.cells import Cell, Place, cell_of, judge, places
from baton.bench.compare.loads import fixed
from baton.bench.compare.measure import Serve, measure
from baton.bench.compare.running import Start
from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import at_least, console, show_rows, show_table
from baton.bench.results import Result, Row, chosen, deliver, found
from baton.bench.routing.systems import System, colocated, split
from baton.bench.routing.trial import lanes_for, run_trial
from baton.bench.simulator.machine import Machine
from baton.bench.workloads.arrivals import arrivals
from baton.bench.workloads.workload import Part
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

SAME = 0.8
"""Of the places that are decided, on the same side by the planner and by what was measured."""
_MOST_FAILURES = 3
"""Places in a row of which none could be measured, after which no more are tried."""
_SEEDS_APART = 1000
_LONGEST = 300
"""Characters of why a place could not be measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where too few places are as planned, or some could not be measured;
    STOPPED where Ctrl-C ended it and some were measured.
    Raises ConfigError, also where none could."""
    options = _options(arguments)
    if options.workers < 2 or min(options.prompts + options.outputs + options.chunks) < 1 or (
        not all(0 < load < math.inf for load in options.loads) or options.jobs < 1
    ):
        raise ConfigError("a map needs --workers of 2 or more, and all numbers above 0")
    if options.repeat < 2:
        raise ConfigError("a map is judged by intervals, which one repetition has not: --repeat 2 "
                          "or more")
    if options.real and options.machine is None:
        raise ConfigError("--real needs --machine PROFILE: the planner must know these workers")
    machine = load_machine(options.machine)
    asked = Targets(ttft=options.ttft, itl=options.itl)
    grid = list(places(
        machine, options.workers, options.prompts, options.outputs, options.loads,
        asked if asked != Targets() else None,
        # Half of a real worker's step is for prompts while it decodes.
        [chunk // 2 for chunk in options.chunks] if options.real else options.chunks,
    ))
    failed: list[str] = []
    measured = (_real(grid, options, failed.append) if options.real
                else _simulated(grid, machine, options))
    cells = []
    stopped = False
    try:
        for cell in measured:
            cells.append(cell)
            console().print(f"{len(cells)}/{len(grid)}  {_place(cell)}: {cell.best} over "
                            f"{cell.best_colocated} {_both(cell)}", highlight=False)
    except KeyboardInterrupt:
        if not cells:
            raise
        stopped = True
        failed.append(f"ENDED EARLY, Ctrl-C after {len(cells)} of {len(grid)} places")
    if failed and not cells:
        raise ConfigError(f"no place could be measured; {failed[0]}")
    result = as_result(options, machine, cells, failed)
    if not deliver(result, options.json):
        show(cells)
        for sentence in result.metrics["verdict"]:
            console().print(f"- {sentence}", highlight=False, markup=False)
        show_rows(result.rows)
    return reading.STOPPED if stopped else 0 if all(row.holds for row in result.rows) else 1


def as_result(
    options: argparse.Namespace, machine: Machine, cells: Sequence[Cell],
    failed: Sequence[str] = (),
) -> Result:
    judged = judge(cells)
    what = "decided places on the planner's side"
    return found(
        "map",
        settings={**chosen(options, "jobs", "up"), "machine": machine.name},
        metrics={
            "verdict": [
                *(f"NOT ALL WAS MEASURED: {why}." for why in failed),
                f"Of {judged.places} places {judged.decided} are decided: {judged.same} as "
                f"planned, {judged.contradicted} the other way, {judged.planner_tied} where the "
                "planner sees a tie.",
                *(f"Against the planner: {_place(cell)}: {_both(cell)}."
                  for cell in judged.contradictions),
            ],
            **{name: value for name, value in asdict(judged).items() if name != "contradictions"},
        },
        rows=[
            *(Row("places", "all measured", why, False) for why in failed),
            at_least(what, SAME, judged.share) if judged.decided
            else Row(what, f">= {SAME:g}", "none is decided: more --repeat, --seconds", False),
        ],
        series={"cells": [msgspec.to_builtins(cell) for cell in cells]},
    )


def show(cells: Sequence[Cell]) -> None:
    for load in dict.fromkeys(cell.load for cell in cells):
        here = [cell for cell in cells if cell.load == load]
        outputs = sorted({cell.output for cell in here})
        by_place = {(cell.prompt, cell.output): cell for cell in here}
        show_table(
            f"load {load:g}: goodput of the best split over the best colocated layout "
            "(the planner's); ?: open",
            ("prompt", *(f"output {output}" for output in outputs)),
            [(prompt, *(_text(by_place.get((prompt, output))) for output in outputs))
             for prompt in sorted({cell.prompt for cell in here})],
        )


def _text(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.measured:.2f}{_mark(cell)} ({cell.planned:.2f})"


def _mark(cell: Cell) -> str:
    """Places that are open have a question mark."""
    return "" if cell.won else "?"


def _place(cell: Cell) -> str:
    return f"{cell.prompt}/{cell.output} at {cell.rate:.2f}/s"


def _both(cell: Cell) -> str:
    between = "" if cell.low is None else f" ({cell.low:.2f} to {cell.high:.2f})"
    return f"{cell.measured:.2f}{between}, planner {cell.planned:.2f}"


# -- simulated -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """One place, for another process."""

    place: Place
    machine: Machine
    workers: int
    chunks: tuple[int, ...]
    warm: float
    seconds: float
    seeds: tuple[int, ...]


def _simulated(
    grid: Sequence[Place], machine: Machine, options: argparse.Namespace
) -> Iterator[Cell]:
    tasks = [
        _Task(place, machine, options.workers, tuple(options.chunks), options.warm_up,
              options.seconds, _seeds(options))
        for place in grid
    ]
    if options.jobs == 1:
        yield from map(_simulate, tasks)
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        yield from pool.map(_simulate, tasks)


def _simulate(task: _Task) -> Cell:
    return cell_of(task.place, {
        system.name: [_trial(task, system, seed) for seed in task.seeds]
        for system in _systems(task.workers, task.chunks)
    })


def _seeds(options: argparse.Namespace) -> tuple[int, ...]:
    return tuple(options.seed + _SEEDS_APART * n for n in range(options.repeat))


def _systems(workers: int, chunks: Sequence[int]) -> Iterator[System]:
    """By targets, in place of a chunk, is colocated, too."""
    for number in range(1, workers):
        yield split(number, workers - number)
    for chunk in chunks:
        yield colocated(workers, chunk)
    yield replace(colocated(workers, 0), name=making.COLOCATED, chunk=None)


def _trial(task: _Task, system: System, seed: int) -> float:
    place = task.place
    end = task.warm + task.seconds
    part = Part(fixed(place.prompt, place.output), place.rate, 0.0, end)
    return run_trial(
        system, task.machine, arrivals([part], seed, lambda kind: place.targets),
        lanes=lanes_for(place.targets), count=(task.warm, end), seed=seed,
        limit=10 * (place.targets.ttft or 1.0),
    ).goodput


# -- real ------------------------------------------------------------------------------------


def _real(
    grid: Sequence[Place], options: argparse.Namespace, fail: Callable[[str], None]
) -> Iterator[Cell]:
    """Places at which a run failed are left out, and told to `fail`."""
    start, serve = reading.start_of(options), reading.serve_of(options)
    in_a_row = 0
    for place in grid:
        try:
            cell = _measure(place, options, start, serve)
        except ConfigError as error:
            fail(f"{place.prompt}/{place.output} at {place.rate:.2f}/s: "
                 f"{' '.join(str(error).split())[:_LONGEST]}")
            in_a_row += 1
            if in_a_row == _MOST_FAILURES:
                fail("the places behind it were not tried")
                return
            continue
        in_a_row = 0
        yield cell


def _measure(place: Place, options: argparse.Namespace, start: Start, serve: Serve) -> Cell:
    load = replace(
        reading.load_of(options, f"{place.prompt}/{place.output}"), targets=place.targets
    )
    layouts = [layout for layout in
               making.usual(options.workers, options.chunks, place.targets)
               if layout.family != making.AUTO]
    goodput: dict[str, list[float]] = {layout.name: [] for layout in layouts}
    for repetition, seed in enumerate(_seeds(options)):
        for layout in layouts if repetition % 2 == 0 else reversed(layouts):
            run = measure(start, serve, layout, load, rate=place.rate, repetition=repetition,
                          seed=seed)
            goodput[layout.name].append(run.goodput)
    return cell_of(place, goodput)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench map", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    reading.add_workers(parser)
    parser.set_defaults(ttft=None, itl=None, e2e=None, chunks=[128, 512])
    parser.add_argument("--machine", help="as for `baton bench routing suite`")
    parser.add_argument("--prompts", type=int, nargs="+", metavar="TOKENS",
                        default=[64, 256, 1024, 4096])
    parser.add_argument("--outputs", type=int, nargs="+", metavar="TOKENS",
                        default=[8, 32, 128, 512])
    parser.add_argument("--loads", type=float, nargs="+", metavar="SHARE", default=[0.6, 0.9],
                        help="of what the best layout carries at most")
    parser.add_argument("--real", action="store_true", help="on real workers of this machine")
    parser.add_argument("--jobs", type=int, default=1, help="processes, in simulated time")
    return parser.parse_args(arguments)

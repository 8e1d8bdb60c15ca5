"""`baton bench map`: who wins over prompt length, output length and load, and the planner's border.

At each place the best split is set against the best colocated layout: goodput over goodput. Loads
are shares of what the best layout could carry, by the planner. In simulated time by default; with
--real on real workers of this machine, whose profile (`baton profile`) the planner then reads.

  baton bench map --machine profile.json --json map.jsonl
  baton bench map --machine profile.json --real --prompts 128 1024 --outputs 16 128 --loads 0.9
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import msgspec

from baton.bench.compare import layouts as making
from baton.bench.compare import options as reading
from baton.bench.compare.cells import Cell, Place, agreement, cell_of, places
from baton.bench.compare.loads import fixed
from baton.bench.compare.measure import measure
from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import at_least, console, show_rows, show_table
from baton.bench.results import Result, chosen, deliver, found
from baton.bench.routing.systems import System, colocated, split
from baton.bench.routing.trial import lanes_for, run_trial
from baton.bench.simulator.machine import Machine
from baton.bench.workloads.arrivals import arrivals
from baton.bench.workloads.workload import Part
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

SAME = 0.8
"""Of the places, on the same side by the planner and by what was measured."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    if options.workers < 2 or min(options.prompts + options.outputs + options.chunks) < 1 or (
        min(options.loads) <= 0 or options.jobs < 1 or options.repeat < 1
    ):
        raise ConfigError("a map needs --workers of 2 or more, and all numbers above 0")
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
    measured = _real(grid, options) if options.real else _simulated(grid, machine, options)
    cells = []
    for cell in measured:
        cells.append(cell)
        console().print(
            f"{len(cells)}/{len(grid)}  {cell.prompt}/{cell.output} at {cell.rate:.2f}/s: "
            f"{cell.best} over {cell.best_colocated} {cell.measured:.2f}, planner "
            f"{cell.planned:.2f}", highlight=False,
        )
    result = as_result(options, machine, cells)
    if not deliver(result, options.json):
        show(cells)
        show_rows(result.rows)
    return 0 if all(row.holds for row in result.rows) else 1


def as_result(options: argparse.Namespace, machine: Machine, cells: Sequence[Cell]) -> Result:
    same, total = agreement(cells)
    settings = {
        **chosen(options, "jobs", "up"),
        "machine": machine.name,
    }
    return found(
        "map",
        settings=settings,
        metrics={"places": total, "on_the_same_side": same},
        rows=[at_least("places where the planner's side is not the other one", SAME,
                       same / max(1, total))],
        series={"cells": [msgspec.to_builtins(cell) for cell in cells]},
    )


def show(cells: Sequence[Cell]) -> None:
    for load in dict.fromkeys(cell.load for cell in cells):
        here = [cell for cell in cells if cell.load == load]
        outputs = sorted({cell.output for cell in here})
        by_place = {(cell.prompt, cell.output): cell for cell in here}
        show_table(
            f"load {load:g}: goodput of the best split over the best colocated layout "
            "(the planner's)",
            ("prompt", *(f"output {output}" for output in outputs)),
            [(prompt, *(_text(by_place.get((prompt, output))) for output in outputs))
             for prompt in sorted({cell.prompt for cell in here})],
        )


def _text(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.measured:.2f} ({cell.planned:.2f})"


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
    seed: int


def _simulated(
    grid: Sequence[Place], machine: Machine, options: argparse.Namespace
) -> Iterator[Cell]:
    tasks = [
        _Task(place, machine, options.workers, tuple(options.chunks), options.warm_up,
              options.seconds, options.seed)
        for place in grid
    ]
    if options.jobs == 1:
        yield from map(_simulate, tasks)
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        yield from pool.map(_simulate, tasks)


def _simulate(task: _Task) -> Cell:
    return cell_of(task.place, {
        system.name: _trial(task, system) for system in _systems(task.workers, task.chunks)
    })


def _systems(workers: int, chunks: Sequence[int]) -> Iterator[System]:
    """By targets, in place of a chunk, is colocated, too."""
    for number in range(1, workers):
        yield split(number, workers - number)
    for chunk in chunks:
        yield colocated(workers, chunk)
    yield replace(colocated(workers, 0), name=making.COLOCATED, chunk=None)


def _trial(task: _Task, system: System) -> float:
    place = task.place
    end = task.warm + task.seconds
    part = Part(fixed(place.prompt, place.output), place.rate, 0.0, end)
    return run_trial(
        system, task.machine, arrivals([part], task.seed, lambda kind: place.targets),
        lanes=lanes_for(place.targets), count=(task.warm, end), seed=task.seed,
        limit=10 * (place.targets.ttft or 1.0),
    ).goodput


# -- real ------------------------------------------------------------------------------------


def _real(grid: Sequence[Place], options: argparse.Namespace) -> Iterator[Cell]:
    start, serve = reading.start_of(options), reading.serve_of(options)
    for place in grid:
        load = replace(
            reading.load_of(options, f"{place.prompt}/{place.output}"), targets=place.targets
        )
        layouts = making.usual(options.workers, options.chunks, place.targets)
        goodput: dict[str, list[float]] = {}
        for repetition in range(options.repeat):
            for layout in layouts if repetition % 2 == 0 else reversed(layouts):
                if layout.family == making.AUTO:
                    continue
                run = measure(start, serve, layout, load, rate=place.rate, repetition=repetition,
                              seed=options.seed + 1000 * repetition)
                goodput.setdefault(layout.name, []).append(run.goodput)
        yield cell_of(place, {name: sum(g) / len(g) for name, g in goodput.items()})


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

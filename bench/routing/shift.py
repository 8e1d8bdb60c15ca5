"""`baton bench routing shift`: a load whose balance of prompts and output shifts every few minutes.

For each phase the best static split is found by trying all of them, and the load is a share of
what that one can serve. Then the automatic router lives through all phases, and is compared with
the best static split of each of them, which nobody could have been.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat

from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import at_least, at_most, show_rows, show_table
from baton.bench.results import Row, add_json, chosen, deliver, found
from baton.bench.routing.systems import System, automatic, split
from baton.bench.routing.trial import Trial, capacity, lanes_for, run_trial
from baton.bench.routing.workloads import arrivals, targets_for
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.outcome import Outcome, attainment, window
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.mixed_shift import WORKLOAD
from baton.bench.workloads.named import KINDS
from baton.bench.workloads.workload import Part
from baton.protocol.records import Targets

WANTED = 0.98
SETTLED = 15.0
"""Seconds after a shift from which on it is as if it had never been otherwise."""
WARM = 10.0
BLENDS = {phase.name: phase.mix for phase in WORKLOAD.phases}
"""Name to (kind, share of the capacity)."""
PHASES = tuple(phase.name for phase in WORKLOAD.phases)


@dataclass(frozen=True)
class Task:
    """One blend at one load, for `seconds` after the warm-up."""

    blend: str
    load: float
    workers: int
    machine: Machine
    targets: Targets
    seed: int
    seconds: float


def parts(task: Task, start: float, end: float) -> list[Part]:
    return [
        Part(kind, share * task.load * task.workers
             * capacity(kind.name, task.machine, task.targets), start, end)
        for kind, share in BLENDS[task.blend]
    ]


def _steady(system: System, task: Task) -> Trial:
    end = WARM + task.seconds
    return run_trial(
        system, task.machine,
        arrivals(parts(task, 0.0, end), task.machine, task.seed, targets=task.targets),
        lanes=lanes_for(task.targets), count=(WARM, end), seed=task.seed, limit=120.0,
    )


def best_split(task: Task, jobs: int) -> tuple[System, float]:
    """The split that serves most, and at which load 98 % of its requests attain: the load is
    doubled or halved first, then narrowed down."""
    systems = [split(n, task.workers - n) for n in range(1, task.workers)]
    load, low, high = task.load, 0.0, 0.0
    best = systems[0]
    for _ in range(7):
        tasks = repeat(_at(task, load))
        with ProcessPoolExecutor(jobs) as pool:
            trials = list(pool.map(_steady, systems, tasks))
        able = [(t.goodput, s) for t, s in zip(trials, systems, strict=True)
                if attainment(t.outcomes) >= WANTED]
        if able:
            low, best = load, max(able, key=lambda pair: pair[0])[1]
            systems = [s for _, s in able]  # what could not do this cannot do more
            load = (low + high) / 2 if high else 1.4 * low
        else:
            high = load
            load = (low + high) / 2 if low else high / 1.4
        if low and high and high - low < 0.04 * high:
            break
    return best, low or load


def _at(task: Task, load: float) -> Task:
    return Task(task.blend, load, task.workers, task.machine, task.targets, task.seed,
                task.seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    machine = load_machine(options.machine)
    targets = targets_for(machine, KINDS["code"].prompt)

    def task(blend: str, load: float, seconds: float) -> Task:
        return Task(blend, load, options.workers, machine, targets, options.seed, seconds)

    phases = PHASES[: options.phases]
    bests = {
        blend: best_split(task(blend, 0.7, options.probe), options.jobs)
        for blend in dict.fromkeys(phases)
    }
    for blend, (system, load) in bests.items():
        print(f"{blend}: best is {system.name}, up to load {load:.2f}", flush=True)

    def stream(seed: int) -> Iterator[Arrival]:
        return arrivals(
            [part for number, blend in enumerate(phases)
             for part in parts(task(blend, options.share * bests[blend][1], 0.0),
                               number * options.seconds, (number + 1) * options.seconds)],
            machine, seed, targets=targets,
        )

    end = len(phases) * options.seconds
    lanes = lanes_for(targets)
    systems = [automatic(options.workers), *dict.fromkeys(system for system, _ in bests.values())]
    trials = [
        run_trial(system, machine, stream(options.seed), lanes=lanes, count=(0.0, end),
                  seed=options.seed, limit=120.0)
        for system in systems
    ]
    rows = judge(trials[0], trials[1:], phases, options.seconds)
    show_table(
        f"{options.workers} workers, {options.share:g} of what the best split of each phase serves",
        ("system", *(f"{n + 1} {blend}" for n, blend in enumerate(phases)), "all"),
        [(t.system, *(f"{attainment(o):.3f}" for o in _phases(t, phases, options.seconds)),
          f"{attainment(t.outcomes):.3f}") for t in trials],
    )
    for at, worker, role in trials[0].run.role_changes:
        print(f"{at:7.1f} s  {worker} becomes {role}")
    for line in trials[0].run.sizing:
        print(f"  {line}")
    good = show_rows(rows)
    deliver(found(
        "routing shift", settings={**chosen(options, "jobs"), "machine": machine.name}, rows=rows,
        series={
            "phases": [{"blend": b, "best": bests[b][0].name, "load": bests[b][1]} for b in phases],
            "role_changes": trials[0].run.role_changes,
        },
    ), options.json)
    return 0 if good else 1


def judge(
    ours: Trial, static: Sequence[Trial], phases: Sequence[str], seconds: float
) -> list[Row]:
    """The criteria, over phases of so many seconds each."""
    mine = _phases(ours, phases, seconds)
    theirs = [_phases(trial, phases, seconds) for trial in static]
    got = sum(sum(o.attained for o in phase) for phase in mine)
    best = sum(
        max(sum(o.attained for o in phases_of[n]) for phases_of in theirs)
        for n in range(len(phases))
    )
    settled = [
        attainment([o for o in phase if o.at >= n * seconds + SETTLED])
        for n, phase in enumerate(mine)
    ]
    times = [at for at, _, _ in ours.run.role_changes]
    changes = [
        sum(n * seconds <= at < (n + 1) * seconds for at in times) for n in range(len(phases))
    ]
    late = sum(at % seconds > 2 * SETTLED for at in times if at < len(phases) * seconds)
    return [
        at_least("attained, over all phases", WANTED, attainment(ours.outcomes)),
        at_least(f"attained from {SETTLED:g} s after a shift on, the worst phase", WANTED,
                 min(settled)),
        at_most("role changes for a shift, the most", 3, max(changes), 0),
        at_most("role changes while nothing shifts", 0, late, 0),
        at_most("lost against the best split of each phase", 0.03, 1 - got / best if best else 0.0),
    ]


def _phases(trial: Trial, phases: Sequence[str], seconds: float) -> list[list[Outcome]]:
    return [window(trial.outcomes, n * seconds, (n + 1) * seconds) for n in range(len(phases))]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench routing shift", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=180.0, help="of each phase")
    parser.add_argument("--phases", type=int, default=len(PHASES))
    parser.add_argument("--probe", type=float, default=30.0,
                        help="seconds of each run that looks for the best split")
    parser.add_argument("--share", type=float, default=0.9,
                        help="of what the best split can serve")
    parser.add_argument("--machine", help="as for suite")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=1)
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))

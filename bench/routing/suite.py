"""`baton bench routing suite`: never worse than what people run.

For each kind of work, some loads and sizes of the cluster: the automatic router against every
static split and against colocated workers with every chunk size, on the same requests of some
seeds. What counts is goodput: requests per second that attained their TTFT and ITL. The ratio comes
with bounds (`paired.py`); it is judged by its value, and chance by the bounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.report import at_least, show_rows, show_table
from baton.bench.results import Row, add_json, chosen, deliver, found
from baton.bench.routing.contest import WANTED, Contest, goodput, hold
from baton.bench.routing.paired import mean
from baton.bench.routing.systems import System
from baton.bench.routing.trial import Trial, capacity, lanes_for, run_trial
from baton.bench.routing.workloads import arrivals, targets_for
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.outcome import summary
from baton.bench.workloads.named import KINDS, WORKLOADS
from baton.bench.workloads.workload import Part

WARM = {False: 5.0, True: 30.0}
"""Seconds before what counts; with conversations, of which the first ones begin then."""

SHAPES: dict[str, tuple[tuple[tuple[str, float], ...], float]] = {
    name: (tuple((kind.name, share) for kind, share in phase.mix), phase.variation)
    for name, workload in WORKLOADS.items()
    for phase in workload.phases
    if len(workload.phases) == 1
}
"""Name to (kind, share of the capacity) and the variation of intervals."""


def warm_up(shape: str) -> float:
    return WARM[any(KINDS[kind].turns > 1 for kind, _ in SHAPES[shape][0])]


def longest_prompt(shape: str) -> int:
    """Uncached tokens of the longest of its kinds."""
    return max(KINDS[kind].prompt for kind, _ in SHAPES[shape][0])


def load_of(
    shape: str, load: float, workers: int, machine: Machine, seconds: float
) -> list[Part]:
    """`load`: of what the cluster could do at most. `seconds`: that count, after the warm-up."""
    kinds, variation = SHAPES[shape]
    warm = warm_up(shape)
    return [
        Part(
            kind,
            share * load * workers * capacity(kind, machine, targets_for(
                machine, KINDS[kind].prompt)),
            0.0,
            warm + seconds,
            variation,
        )
        for kind, share in kinds
    ]


def compare(
    shape: str,
    load: float,
    workers: int,
    machine: Machine,
    *,
    seconds: float,
    seed: int,
    systems: Sequence[System],
    jobs: int = 1,
) -> list[Trial]:
    """All systems on the same requests."""
    tasks = [(system, shape, load, workers, machine, seconds, seed) for system in systems]
    if jobs == 1 or len(tasks) < 2:
        return [_one(*task) for task in tasks]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(_one, *zip(*tasks, strict=True)))


def _one(
    system: System,
    shape: str,
    load: float,
    workers: int,
    machine: Machine,
    seconds: float,
    seed: int,
) -> Trial:
    parts = load_of(shape, load, workers, machine, seconds)
    targets = targets_for(machine, longest_prompt(shape))
    warm = warm_up(shape)
    return run_trial(
        system,
        machine,
        arrivals(parts, machine, seed, targets=targets),
        lanes=lanes_for(targets),
        count=(warm, warm + seconds),
        seed=seed,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code. Raises ConfigError."""
    options = _options(arguments)
    machine = load_machine(options.machine)
    rows: list[Row] = []
    ratios: list[float] = []
    results: list[dict[str, Any]] = []
    cases = [
        (workers, shape, load)
        for workers in options.workers
        for shape in options.only or SHAPES
        for load in options.load
    ]
    for workers, shape, load in cases:
        def run(
            systems: Sequence[System],
            seed: int,
            case: tuple[str, float, int] = (shape, load, workers),
        ) -> list[Trial]:
            return compare(*case, machine, seconds=options.seconds, seed=seed, systems=systems,
                           jobs=options.jobs)

        started = time.monotonic()
        contest = hold(workers, options.seeds, run, options.systems or ())
        what = f"{shape}, {workers} workers, load {load:g}"
        rows.append(contest.row(what))
        ratios.append(contest.ratio.value)
        results.append({
            "workload": shape, "load": load, "workers": workers, "ratio": contest.ratio._asdict(),
            "best": contest.best, "systems": of_all(contest),
        })
        show_contest(f"{what} ({time.monotonic() - started:.0f} s taken)", contest)
    if len(rows) > 1:
        rows.append(at_least(f"all {len(rows)}, geometric mean", WANTED, mean(ratios)))
    good = show_rows(rows)
    deliver(found(
        "routing suite", settings={**chosen(options, "jobs"), "machine": machine.name},
        series={"runs": results}, rows=rows,
    ), options.json)
    return 0 if good else 1


def of_all(contest: Contest) -> dict[str, list[dict[str, Any]]]:
    """Figures of each system, seed by seed."""
    return {trials[0].system: [figures(t) for t in trials] for trials in contest.trials()}


def figures(trial: Trial) -> dict[str, Any]:
    """Of one system, for JSON."""
    return {
        **summary(trial.outcomes, trial.seconds),
        "role_changes": len(trial.run.role_changes),
        "decisions": dict(trial.run.decisions),
        "retries": dict(trial.run.retries),
        "busy": {name: round(work.busy / trial.run.seconds, 3)
                 for name, work in trial.run.work.items()},
    }


def show_contest(title: str, contest: Contest) -> None:
    """One line for each system, all its seeds together."""
    lines = []
    for trials in contest.trials():
        outcomes = [outcome for trial in trials for outcome in trial.outcomes]
        seen = summary(outcomes, sum(trial.seconds for trial in trials))
        lines.append((
            trials[0].system, len(trials), seen["requests"], f"{goodput(trials):.3f}",
            seen["attainment"], seen["served"], seen["ttft_ms"]["p50"], seen["ttft_ms"]["p99"],
            seen["itl_ms"]["p50"], seen["itl_ms"]["p99"], seen["hit_rate"],
            sum(len(trial.run.role_changes) for trial in trials),
        ))
    show_table(
        title,
        ("system", "seeds", "requests", "goodput/s", "attained", "served", "TTFT p50", "p99 ms",
         "ITL p50", "p99 ms", "hits", "role changes"),
        lines,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="baton bench routing suite", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[4])
    parser.add_argument("--load", type=float, nargs="+", default=[0.6, 0.85],
                        help="of what the cluster could do at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="that count, of each run")
    parser.add_argument("--only", nargs="+", choices=SHAPES, help="kinds of work")
    parser.add_argument("--systems", nargs="+", metavar="NAME",
                        help='only these, such as auto "split 2+2" "colocated 256"')
    parser.add_argument("--machine", help="a file of `baton profile`, or FILE:MODEL:TP of a "
                        "DistServe fit; default: one made of a device's figures")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4],
                        help="requests of each are the same for all systems")
    add_json(parser)
    return parser.parse_args(None if arguments is None else list(arguments))

"""A simulation that is timed, what it cost where, and how far two of them agree."""

from __future__ import annotations

import cProfile
import pstats
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.bench.quantiles import quantile
from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.outcome import attainment
from baton.bench.workloads.arrival import Arrival
from baton.protocol.records import Targets
from baton.router.dispatcher import Dispatcher
from baton.router.lanes import Lanes, configure

ROOT = Path(__file__).parents[2]
"""As the interpreter names the files of this package, which a profile goes by: behind a symbolic
link that is another path than the resolved one."""


@dataclass(frozen=True)
class Timed:
    run: Run
    wall: float
    processor: float
    """Seconds."""

    @property
    def per_second(self) -> float:
        """Requests simulated in a second of processor time."""
        return len(self.run.outcomes) / self.processor

    def figures(self) -> dict[str, Any]:
        work = self.run.work.values()
        tokens = sum(outcome.tokens for outcome in self.run.outcomes)
        return {
            "requests": len(self.run.outcomes),
            "output_tokens": tokens,
            "steps": sum(each.steps for each in work),
            "steps_ahead": sum(each.ahead for each in work),
            "events": self.run.events,
            "simulated_seconds": round(self.run.seconds, 1),
            "wall_seconds": round(self.wall, 2),
            "processor_seconds": round(self.processor, 2),
            "simulated_seconds_per_s": round(self.run.seconds / self.processor, 2),
            "requests_per_s": round(self.per_second, 1),
            "us_per_token": round(1e6 * self.processor / tokens, 2) if tokens else None,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            **seen_by_clients(self.run),
        }


def simulate(
    workers: Sequence[tuple[str, Machine]],
    arrivals: Sequence[Arrival],
    targets: Targets,
    *,
    seed: int,
    fast_forward: bool,
    sizing: bool = True,
) -> Timed:
    """Until all requests have ended."""
    cluster = _cluster(workers, targets, seed, fast_forward, sizing)
    wall, processor = time.perf_counter(), time.process_time()
    run = cluster.run(arrivals)
    return Timed(run, time.perf_counter() - wall, time.process_time() - processor)


def where(
    workers: Sequence[tuple[str, Machine]],
    arrivals: Sequence[Arrival],
    targets: Targets,
    *,
    seed: int,
    fast_forward: bool,
    sizing: bool = True,
) -> dict[str, float]:
    """The share of a simulation's time that each package takes, by a profiler, which makes many
    small calls look dearer than they are. Built-in functions count where they are called."""
    cluster = _cluster(workers, targets, seed, fast_forward, sizing)
    profile = cProfile.Profile(time.process_time)  # not what others had of the machine
    profile.enable()
    cluster.run(arrivals)
    profile.disable()
    spent: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if Path(file).is_relative_to(ROOT):
            spent[_package(file)] += own
            continue
        for (caller, _, _), (_, _, of_it, _) in callers.items():
            spent[_package(caller)] += of_it
    total = sum(spent.values())
    return {name: round(seconds / total, 3) for name, seconds in spent.most_common()}


def seen_by_clients(run: Run) -> dict[str, float]:
    """What a plan would be made from. Milliseconds, but for shares."""
    ttft = [o.ttft for o in run.outcomes if o.ttft is not None]
    itl = [value for o in run.outcomes if (value := o.itl) is not None]
    found: dict[str, float | None] = {"attainment": attainment(run.outcomes)}
    for percent in (50, 90, 99):
        found[f"ttft_p{percent}_ms"] = _ms(quantile(ttft, percent / 100))
        found[f"itl_p{percent}_ms"] = _ms(quantile(itl, percent / 100))
        found[f"gap_p{percent}_ms"] = _ms(run.gaps.quantile(percent / 100))
    return {name: round(value, 4) for name, value in found.items() if value is not None}


def disagreement(one: Run, other: Run) -> dict[str, float]:
    """By how much each figure differs, relative to the first."""
    first, second = seen_by_clients(one), seen_by_clients(other)
    return {
        name: round(abs(second.get(name, 0.0) - value) / value, 5) if value else 0.0
        for name, value in first.items()
    }


def identical(one: Run, other: Run) -> bool:
    """To the last bit: every outcome, every interval, every decision, all that was learned of
    workers' health."""
    return (
        one.outcomes == other.outcomes
        and one.gaps == other.gaps
        and one.decisions == other.decisions
        and one.role_changes == other.role_changes
        and one.circuits == other.circuits
    )


def _cluster(
    workers: Sequence[tuple[str, Machine]], targets: Targets, seed: int, fast_forward: bool,
    sizing: bool,
) -> Cluster:
    lanes = Lanes(configure(targets.ttft, targets.itl))
    make: Callable[[Any], Dispatcher] = lambda observer: Dispatcher(  # noqa: E731
        None, observer, lanes=lanes, max_queue=100_000
    )
    return Cluster(
        workers, seed=seed, dispatcher=make, sizing=sizing, fast_forward=fast_forward
    )


def _package(file: str) -> str:
    path = Path(file)
    if not path.is_relative_to(ROOT):
        return "other"
    inner = path.relative_to(ROOT).parts
    return "/".join(inner[: 2 if inner[0] == "bench" else 1])


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds

"""The few layouts that closed forms like best, in simulated time: what rate they carry, what
latencies they have at it, and how sure that is.

    first      of each: the highest rate, with one seed
    again      closed forms are corrected by what came of it; who would be best now is tried, too
    others     of the best of each shape: the highest rate with the other seeds
    measured   of these: latencies and how busy they are, at the rate in question, with all seeds

Every step is a list of independent tasks, for as many processes as there are cores; what comes out
does not depend on how many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, TypeVar

import numpy as np

from baton.bench.planning.candidates import Candidate, choose, closed_of
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.layout import Layout
from baton.bench.planning.limits import Limits
from baton.bench.planning.loads import Load
from baton.bench.planning.plan import SHAPES
from baton.bench.planning.progress import Tell
from baton.bench.planning.run import Seen, run_load, span_of
from baton.bench.planning.search import GROWTH, Border, highest
from baton.bench.planning.wishes import Wishes
from baton.router.planner.workload import Workload

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    per_shape: int
    """Layouts of each shape that are simulated."""
    kept: int
    """Of these, with all seeds."""
    requests: int
    """That count in a run."""
    tokens: int
    """Of output in a run, at most."""
    seeds: int
    rounds: int
    """Times that closed forms are corrected."""
    precise: float
    """Relative distance of the rates on either side of a capacity; between them it is linear."""


EFFORTS = {
    "quick": Effort(per_shape=1, kept=1, requests=250, tokens=40_000, seeds=3, rounds=1,
                    precise=0.1),
    "normal": Effort(per_shape=3, kept=1, requests=500, tokens=150_000, seeds=5, rounds=2,
                     precise=0.06),
    "thorough": Effort(per_shape=6, kept=3, requests=2000, tokens=1_000_000, seeds=8,
                       rounds=3, precise=0.04),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The same for all tasks."""

    kinds: tuple[WorkerKind, ...]
    load: Load
    workload: Workload
    """As closed forms see it."""
    wishes: Wishes
    effort: Effort
    seed: int = 1

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.effort.seeds)


@dataclass(frozen=True, slots=True)
class Point:
    """One look at a rate: latencies at the wanted share of requests, in seconds."""

    rate: float
    attainment: float
    ttft: float | None
    itl: float | None


@dataclass(slots=True)
class Survivor:
    candidate: Candidate
    borders: list[Border] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """The highest, by seed."""
        return [border.rate for border in self.borders]

    @property
    def capacity(self) -> float:
        return sum(self.rates) / len(self.rates) if self.borders else 0.0


class Processes:
    """Runs tasks, here or in other processes. `tell` hears how many more there are, and of each
    that is done."""

    def __init__(
        self, setting: Setting, jobs: int, tell: Tell
    ) -> None:
        self._setting = setting
        self._tell = tell
        self._pool = (
            ProcessPoolExecutor(jobs, initializer=_begin, initargs=(setting,)) if jobs > 1 else None
        )

    def map(self, tasks: Sequence[Callable[[Setting], T]]) -> list[T]:
        """In the order of the tasks."""
        self._tell(len(tasks), 0)
        if self._pool is None:
            results = []
            for task in tasks:
                results.append(task(self._setting))
                self._tell(0, 1)
            return results
        futures = [self._pool.submit(_run, task) for task in tasks]
        for future in futures:
            future.add_done_callback(lambda _: self._tell(0, 1))
        return [future.result() for future in futures]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


@contextmanager
def processes(
    setting: Setting,
    jobs: int | None = None,
    tell: Tell = lambda more, done: None,
) -> Iterator[Processes]:
    """`jobs`: None for one per core that there is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = Processes(setting, jobs or cores or 1, tell)
    try:
        yield found
    finally:
        found.close()


def simulate(
    candidates: Sequence[Candidate], limits: Limits, setting: Setting, run: Processes
) -> tuple[list[Survivor], dict[str, float]]:
    """All that were measured, the best first; and by shape, what closed forms have to be
    multiplied with to say what the simulation does."""
    tried, factors = _first(candidates, limits, setting, run)

    def score(survivor: Survivor) -> tuple[bool, float, float]:
        return limits.score(survivor.capacity, survivor.candidate.layout, setting.kinds)

    best: list[Survivor] = []
    for shape in SHAPES:
        of_shape = [s for s in tried if s.candidate.layout.shape == shape]
        best += sorted(of_shape, key=score, reverse=True)[: setting.effort.kept]
    others = [(s, seed) for s in best for seed in setting.seeds[1:]]
    found = run.map([
        partial(find_border, layout=s.candidate.layout, start=_start(s), seed=seed, growth=1.15,
                precise=2 * setting.effort.precise)
        for s, seed in others
    ])
    for (survivor, _), (border, points) in zip(others, found, strict=True):
        survivor.borders.append(border)
        survivor.points += points
    _measure(best, limits, setting, run)
    return sorted(best, key=score, reverse=True), factors


def _first(
    candidates: Sequence[Candidate], limits: Limits, setting: Setting, run: Processes
) -> tuple[list[Survivor], dict[str, float]]:
    tried: dict[Layout, Survivor] = {}
    factors: dict[str, float] = {}
    count = setting.effort.per_shape
    for number in range(setting.effort.rounds + 1):
        chosen = choose(candidates, setting.kinds, limits, setting.wishes.attainment,
                        1 if number else count, factors)
        new = [c for c in chosen if c.layout not in tried]
        if not new:
            break
        found = run.map([
            partial(find_border, layout=c.layout, start=_expected(c, factors, setting),
                    seed=setting.seed, precise=setting.effort.precise)
            for c in new
        ])
        for candidate, (border, points) in zip(new, found, strict=True):
            tried[candidate.layout] = Survivor(candidate, [border], list(points))
        factors = _corrections(list(tried.values()), setting.wishes.attainment)
    return list(tried.values()), factors


def _measure(
    best: Sequence[Survivor], limits: Limits, setting: Setting, run: Processes
) -> None:
    tasks = [(survivor, seed) for survivor in best for seed in setting.seeds]
    found = run.map([
        partial(look, layout=survivor.candidate.layout, rate=rate_for(survivor, limits),
                seed=seed, watch=seed == setting.seed)
        for survivor, seed in tasks
    ])
    for (survivor, _), seen in zip(tasks, found, strict=True):
        survivor.seen.append(seen)


def rate_for(survivor: Survivor, limits: Limits) -> float:
    """At which its latencies are of interest: the one that was asked for, and where it cannot
    carry that, or nothing was asked for, what it can."""
    capacity = survivor.capacity
    if limits.rate is not None and (capacity >= limits.rate or capacity <= 0):
        return limits.rate
    if capacity > 0:
        return capacity
    return max(1e-3, 0.5 * survivor.candidate.model.bound)


def _start(survivor: Survivor) -> float:
    return survivor.capacity or survivor.candidate.model.bound / 10


def _expected(candidate: Candidate, factors: dict[str, float], setting: Setting) -> float:
    closed = closed_of(candidate, setting.wishes.attainment).rate
    return closed * factors.get(candidate.layout.shape, 0.9) or candidate.model.bound / 4


def _corrections(survivors: Sequence[Survivor], attainment: float) -> dict[str, float]:
    ratios: dict[str, list[float]] = {}
    for survivor in survivors:
        closed = closed_of(survivor.candidate, attainment).rate
        if closed > 0 and survivor.capacity > 0:
            shape = survivor.candidate.layout.shape
            ratios.setdefault(shape, []).append(survivor.capacity / closed)
    return {shape: median(found) for shape, found in ratios.items()}


# -- tasks, in any process -----------------------------------------------------------------------

_setting: Setting | None = None


def _begin(setting: Setting) -> None:
    global _setting
    _setting = setting


def _run(task: Callable[[Setting], Any]) -> Any:
    assert _setting is not None
    return task(_setting)


def look(setting: Setting, *, layout: Layout, rate: float, seed: int, watch: bool = False) -> Seen:
    effort, wishes = setting.effort, setting.wishes
    span = span_of(setting.workload, wishes, rate, effort.requests, effort.tokens,
                   sessions=setting.load.sessions)
    return run_load(layout, setting.kinds, setting.load, wishes, rate=rate, span=span, seed=seed,
                    watch=watch)


def find_border(
    setting: Setting,
    *,
    layout: Layout,
    start: float,
    seed: int,
    precise: float,
    growth: float = GROWTH,
) -> tuple[Border, tuple[Point, ...]]:
    wanted = setting.wishes.attainment
    points: list[Point] = []

    def at(rate: float) -> tuple[float, float]:
        seen = look(setting, layout=layout, rate=rate, seed=seed)
        came = seen.came or rate
        points.append(Point(
            came, seen.attainment, _quantile(seen.ttft, wanted), _quantile(seen.itl, wanted)
        ))
        return came, seen.attainment

    return highest(at, start, wanted, growth=growth, precise=precise), tuple(points)


def _quantile(values: Sequence[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None

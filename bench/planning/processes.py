"""The simulations of a plan, in as many processes as there are cores: what all have in common, and
the pool that runs them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.loads import Load
from baton.bench.planning.progress import Tell
from baton.bench.planning.steady import Length
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
    """That count in a run, at least."""
    lives: float
    """Of requests, one after the other, that a run lasts while they count (`steady.Length`)."""
    tokens: int
    """Of output in a run, about, beyond which a slice of a layout is simulated."""
    seeds: int
    rounds: int
    """Times that closed forms are corrected."""
    precise: float
    """Relative distance of the rates on either side of a capacity; between them it is linear."""
    coarse: bool = False
    """Long prompts have larger KV blocks (`coarse.py`)."""


EFFORTS = {
    "quick": Effort(per_shape=1, kept=1, requests=250, lives=2.5, tokens=250_000, seeds=3,
                    rounds=1, precise=0.15, coarse=True),
    "normal": Effort(per_shape=3, kept=1, requests=500, lives=6.0, tokens=1_000_000, seeds=5,
                     rounds=2, precise=0.06),
    "thorough": Effort(per_shape=6, kept=3, requests=2000, lives=16.0, tokens=10_000_000, seeds=8,
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
    def length(self) -> Length:
        """Of every run."""
        return Length(requests=self.effort.requests, lives=self.effort.lives)

    @property
    def seeds(self) -> range:
        """Of the runs that count; layouts are chosen with the first."""
        return range(self.seed, self.seed + self.effort.seeds)

    @property
    def fresh(self) -> range:
        """As many, none of which chose anything."""
        return range(self.seed + 1, self.seed + 1 + self.effort.seeds)


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


# -- in any process ----------------------------------------------------------------------

_setting: Setting | None = None


def _begin(setting: Setting) -> None:
    global _setting
    _setting = setting


def _run(task: Callable[[Setting], Any]) -> Any:
    assert _setting is not None
    return task(_setting)

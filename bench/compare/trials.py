"""The order of a comparison: tune, find capacities, repeat at given rates.

Layouts take turns within each repetition, and every second repetition goes through them backwards,
so that what changes on the machine meanwhile meets all alike. All layouts get the same requests at
the same rate of one repetition. In searches they are the same at all rates, too, and only come
faster; but not for servers that keep their caches from run to run.

A layout that does not start, or does not take the load, costs that run and nothing else: it is
written down (`Trials.failed`), what was measured stays, the others go on. Who failed twice is not
tried again, for a start may take minutes to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from baton.bench.compare.layouts import Layout
from baton.bench.compare.measure import Run
from baton.bench.compare.search import STEP, Capacity, highest_rate
from baton.protocol.errors import ConfigError

NEAR_STEP = 1.15
"""Of searches after the first one of a layout."""
TUNING_STEP = 1.5
MOST_TUNING = 4
"""Rates."""
MOST_PROBES = 8
"""Of a search for a capacity."""
MOST_FAILURES = 2
"""Of a layout that is still tried."""
_SEEDS_APART = 1000


class Once(Protocol):
    """Measures once."""

    def __call__(
        self, layout: Layout, rate: float, repetition: int, seed: int, give_up: float | None
    ) -> Run:
        """`give_up`: the attainment below which the rest need not be measured. Raises ConfigError
        where nothing can be measured."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that there is not."""

    layout: str
    doing: str
    """What for: "tuning", "a run", "a search", "answers"."""
    rate: float
    repetition: int
    why: str


class _Failed(Exception):
    """It is written down."""


@dataclass
class Trials:
    """All runs of a comparison. `tell` hears of each."""

    once: Once
    wanted: float
    """Attainment."""
    seed: int = 1
    tell: Callable[[str], None] = print
    runs: list[Run] = field(default_factory=list)
    """At the rates that were asked for."""
    tuning: list[Run] = field(default_factory=list)
    probes: list[Run] = field(default_factory=list)
    """Of searches for capacities."""
    searched: dict[str, list[Capacity]] = field(default_factory=dict)
    """Searches that ended, by layout."""
    failed: list[Failure] = field(default_factory=list)

    @property
    def measured(self) -> int:
        """Runs of all kinds."""
        return len(self.runs) + len(self.tuning) + len(self.probes)

    def tune(self, layouts: Sequence[Layout], rate: float) -> list[Layout]:
        """Of each family the best member. At `rate`, then at higher ones, until there is a rate
        that no member of the family holds; there they differ. One that falls far behind is not
        tried further. A family of which nobody can be measured has none."""
        chosen = []
        for family in dict.fromkeys(layout.family for layout in layouts):
            members = [layout for layout in layouts if layout.family == family]
            chosen.append(self._best(members, rate) if len(members) > 1 else members[0])
        return [layout for layout in chosen if layout is not None]

    def repeat(self, layouts: Sequence[Layout], rates: Sequence[float], repetitions: int) -> None:
        """Adds to `runs`."""
        for repetition in range(repetitions):
            for rate in rates:
                for layout in _turned(layouts, repetition):
                    with suppress(_Failed):
                        self.runs.append(self._measure(layout, rate, repetition, anew=True))

    def capacities(
        self,
        layouts: Sequence[Layout],
        start: float,
        repetitions: int,
        *,
        tolerance: float = 0.05,
        most: int = MOST_PROBES,
    ) -> dict[str, list[Capacity]]:
        """Of each layout one for each repetition, but for searches that failed; layouts without
        any are not there. A later one begins where the one before it ended. They are added to
        `searched` as they end, which is what comes back."""
        for repetition in range(repetitions):
            for layout in _turned(layouts, repetition):
                before = self.searched.get(layout.name, [None])[-1]
                known = before is not None and before.found
                try:
                    capacity = highest_rate(
                        partial(self._probe, layout, repetition),
                        before.holds if known and before is not None else start,
                        wanted=self.wanted, tolerance=tolerance, most=most, lowest=start / 100,
                        step=NEAR_STEP if known else STEP,
                    )
                except _Failed:
                    continue
                capacity.repetition = repetition
                self.searched.setdefault(layout.name, []).append(capacity)
                self.tell(f"  {layout.name}: {capacity.holds:.2f} requests/s hold")
        return self.searched

    def fail(
        self, layout: Layout, doing: str, error: Exception, rate: float = 0.0, repetition: int = 0
    ) -> None:
        """It is written down, and told."""
        why = str(error).removeprefix(f"{layout.name}: ")
        self.failed.append(Failure(
            layout=layout.name, doing=doing, rate=rate, repetition=repetition, why=why,
        ))
        self.tell(f"  {layout.name} FAILED ({doing}): {why}"
                  + ("; it is not tried again" if self._given_up(layout) else ""))

    # -- inside ------------------------------------------------------------------------------

    def _given_up(self, layout: Layout) -> bool:
        return sum(each.layout == layout.name for each in self.failed) >= MOST_FAILURES

    def _best(self, members: Sequence[Layout], rate: float) -> Layout | None:
        self.tell(f"tuning {members[0].family}: {', '.join(each.name for each in members)}")
        left = list(members)
        runs: list[Run] = []
        for _ in range(MOST_TUNING):
            found = []
            for layout in left:
                with suppress(_Failed):
                    run = self._measure(layout, rate, 0, doing="tuning")
                    self.tuning.append(run)
                    found.append((layout, run))
            if not found:
                break
            runs = [run for _, run in found]
            best = max(run.goodput for run in runs)
            left = [layout for layout, run in found if run.goodput >= 0.8 * best]
            if len(left) == 1 or max(run.attainment for run in runs) < self.wanted:
                break
            rate *= TUNING_STEP
        if not runs:
            return None
        first = max(runs, key=lambda run: (round(run.goodput, 2),
                                           -(run.point.figure("itl_p99_ms") or 0.0)))
        self.tell(f"  {first.point.layout} it is")
        return next(layout for layout in members if layout.name == first.point.layout)

    def _probe(self, layout: Layout, repetition: int, rate: float) -> float:
        run = self._measure(layout, rate, repetition, anew=not layout.ours, probing=True,
                            doing="a search")
        self.probes.append(run)
        return run.attainment

    def _measure(
        self, layout: Layout, rate: float, repetition: int, *, anew: bool = False,
        probing: bool = False, doing: str = "a run",
    ) -> Run:
        """`anew`: other requests than at other rates. `probing`: only whether it holds counts.
        Raises _Failed."""
        if self._given_up(layout):
            raise _Failed
        seed = self.seed + _SEEDS_APART * repetition + (round(1e7 * rate) if anew else 0)
        try:
            run = self.once(layout, rate, repetition, seed, self.wanted if probing else None)
        except ConfigError as error:
            self.fail(layout, doing, error, rate, repetition)
            raise _Failed from error
        point = run.point
        self.tell(
            f"  {layout.name}, {rate:.2f} requests/s: {run.attainment:.1%} of "
            f"{point.figure('requests') or 0:.0f} in time, "
            f"TTFT P50 {_ms(point.figure('ttft_p50_ms'))}, "
            f"ITL P99 {_ms(point.figure('itl_p99_ms'))}"
            + ("; the client was late, see the result's doubts" if point.doubts else "")
        )
        return run


def _turned(layouts: Sequence[Layout], repetition: int) -> list[Layout]:
    return list(reversed(layouts)) if repetition % 2 else list(layouts)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"

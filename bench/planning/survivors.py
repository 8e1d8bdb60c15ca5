"""The few layouts that closed forms like best, in simulated time: what rate they carry, what
latencies they have at it, and how sure that is.

    first      of each: the highest rate, with one seed
    again      closed forms are corrected by what came of it; who would be best now is tried, too
    others     of the best of each shape: the highest rate with other seeds
    measured   of these: latencies and how busy they are, at the rate in question, with these seeds

The best of several by one seed are not as good by others: that seed's requests suited them. So
where any were left out, the figures are of seeds that chose nothing; of all layouts the same, so
that they can be compared seed by seed.

Every step is a list of independent tasks, for as many processes as there are cores; what comes out
does not depend on how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

from baton.bench.planning.candidates import Candidate, choose, closed_of
from baton.bench.planning.layout import Layout
from baton.bench.planning.limits import Limits
from baton.bench.planning.plan import SHAPES
from baton.bench.planning.processes import Processes, Setting
from baton.bench.planning.run import RunFigures
from baton.bench.planning.search import Border, highest
from baton.bench.planning.slices import Slice, slice_of, whole
from baton.bench.planning.steady import run_steady
from baton.bench.quantiles import quantile

_ABOVE = 1.3
"""Times what closed forms say that the busiest resource allows: no simulation is believed that
says more. Closed forms keep every step within the target, requests only the mean of theirs."""


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
    """By seed; at first of the one that layouts are chosen with."""
    points: list[Point] = field(default_factory=list)
    seen: list[RunFigures] = field(default_factory=list)
    part: Slice | None = None
    """Of the layout, that was simulated. None: all of it."""

    @property
    def rates(self) -> list[float]:
        """The highest, by seed."""
        return [border.rate for border in self.borders]

    @property
    def capacity(self) -> float:
        return sum(self.rates) / len(self.rates) if self.borders else 0.0


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
    chosen = len(best) < len(tried)
    seeds = setting.fresh if chosen else setting.seeds
    others = [(s, seed) for s in best for seed in (seeds if chosen else seeds[1:])]
    found = run.map([
        partial(find_border, part=_part(s), start=_start(s), ceiling=ceiling_of(s.candidate),
                seed=seed, precise=2 * setting.effort.precise)
        for s, seed in others
    ])
    for survivor in best if chosen else ():
        survivor.borders.clear()
    for (survivor, _), (border, points) in zip(others, found, strict=True):
        survivor.borders.append(border)
        survivor.points += points
    _measure(best, limits, setting, seeds, run)
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
        parts = [
            slice_of(c, setting.kinds, setting.workload, setting.wishes, length=setting.length,
                     tokens=setting.effort.tokens, sessions=setting.load.sessions)
            for c in new
        ]
        found = run.map([
            partial(find_border, part=part, start=_expected(c, factors, setting),
                    ceiling=ceiling_of(c), seed=setting.seed, precise=setting.effort.precise)
            for c, part in zip(new, parts, strict=True)
        ])
        for candidate, part, (border, points) in zip(new, parts, found, strict=True):
            tried[candidate.layout] = Survivor(candidate, [border], list(points), part=part)
        factors = corrections(list(tried.values()), setting.wishes.attainment)
    return list(tried.values()), factors


def _measure(
    best: Sequence[Survivor], limits: Limits, setting: Setting, seeds: Sequence[int],
    run: Processes,
) -> None:
    tasks = [(survivor, seed) for survivor in best for seed in seeds]
    found = run.map([
        partial(look, part=_part(survivor), rate=rate_for(survivor, limits),
                seed=seed, watch=seed == seeds[0])
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


def _part(survivor: Survivor) -> Slice:
    return survivor.part or whole(survivor.candidate.layout)


def ceiling_of(candidate: Candidate) -> float:
    """Requests per second that are not searched beyond."""
    return _ABOVE * candidate.model.bound


def _start(survivor: Survivor) -> float:
    return survivor.capacity or survivor.candidate.model.bound / 10


def _expected(candidate: Candidate, factors: dict[str, float], setting: Setting) -> float:
    closed = closed_of(candidate, setting.wishes.attainment).rate
    return closed * factors.get(candidate.layout.shape, 0.9) or candidate.model.bound / 4


def corrections(survivors: Sequence[Survivor], attainment: float) -> dict[str, float]:
    """By shape: simulated over closed form, the middle one."""
    ratios: dict[str, list[float]] = {}
    for survivor in survivors:
        closed = closed_of(survivor.candidate, attainment).rate
        if closed > 0 and survivor.capacity > 0:
            shape = survivor.candidate.layout.shape
            ratios.setdefault(shape, []).append(survivor.capacity / closed)
    return {shape: median(found) for shape, found in ratios.items()}


# -- tasks, in any process -----------------------------------------------------------------------


def look(
    setting: Setting,
    *,
    part: Slice,
    rate: float,
    seed: int,
    watch: bool = False,
    lived: float = 0.0,
) -> RunFigures:
    """`rate`: of the whole layout, as are those that come back."""
    _, seen = run_steady(
        part.layout, setting.kinds, setting.load, setting.workload, setting.wishes,
        rate=rate / part.scale, length=setting.length, seed=seed, watch=watch,
        lived=lived,
    )
    return replace(seen, rate=rate, came=seen.came * part.scale, goodput=seen.goodput * part.scale)


def find_border(
    setting: Setting,
    *,
    part: Slice,
    start: float,
    ceiling: float,
    seed: int,
    precise: float,
) -> tuple[Border, tuple[Point, ...]]:
    wanted = setting.wishes.attainment
    points: list[Point] = []
    lived = 0.0

    def at(rate: float) -> tuple[float, float]:
        nonlocal lived
        seen = look(setting, part=part, rate=rate, seed=seed, lived=lived)
        if seen.attainment >= wanted:
            lived = max(lived, seen.life)
        came = seen.came or rate
        points.append(Point(
            came, seen.attainment, quantile(seen.ttft, wanted), quantile(seen.itl, wanted)
        ))
        return came, seen.attainment

    border = highest(at, start, wanted, precise=precise, ceiling=ceiling)
    return border, tuple(points)

"""Highest rates of layouts beside each other. Pure.

Searches of one repetition had the same requests, so they are pairs. A search in which every rate
held says only how much it is at least: so does a ratio over what it is compared with, and one
under it only how much it is at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from baton.bench.compare.layouts import COLOCATED, DISAGGREGATED, PEER
from baton.bench.compare.search import Capacity
from baton.bench.compare.statistics import Interval, ratio_of

Ratio = tuple[str, str, Interval, str]
"""(layout, layout, the first over the second, "at least ", "at most ", "about " or "")."""


def ratios(
    capacities: Mapping[str, Sequence[Capacity]], families: Mapping[str, str]
) -> list[Ratio]:
    """The best that hands over, over the best colocated layout and over each peer. `families`: of
    layouts by name."""
    ours = _best(capacities, families, DISAGGREGATED)
    colocated = _best(capacities, families, (COLOCATED,))
    others = [colocated, *(name for name in capacities if families.get(name) == PEER)]
    if ours is None:
        return []
    return [
        (ours, theirs, *found)
        for theirs in others
        if theirs is not None and (found := _over(capacities[ours], capacities[theirs]))
    ]


def _best(
    capacities: Mapping[str, Sequence[Capacity]], families: Mapping[str, str],
    wanted: Sequence[str],
) -> str | None:
    able = [name for name, found in capacities.items() if found and families.get(name) in wanted]
    return max(able, key=lambda name: fmean(each.holds for each in capacities[name]), default=None)


def _over(
    ours: Sequence[Capacity], theirs: Sequence[Capacity]
) -> tuple[Interval, str] | None:
    """None where no repetition has both."""
    other = {each.repetition: each for each in theirs}
    pairs = [(each, other[each.repetition]) for each in ours if each.repetition in other]
    if not pairs:
        return None
    more = any(math.isinf(mine.fails) for mine, _ in pairs)
    less = any(math.isinf(other.fails) for _, other in pairs)
    how = ("about " if less else "at least ") if more else ("at most " if less else "")
    return ratio_of([mine.holds for mine, _ in pairs], [other.holds for _, other in pairs]), how

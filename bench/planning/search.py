"""The highest rate that still meets a wish, by few looks at single rates. Pure.

Every look sees a whole run, so misses say by how much, and the border is interpolated; measured
capacities cannot be (`compare/search.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

GROWTH = 1.15
"""From one look to the next while only one side of the border has been seen; from the third one
on steps are ever larger."""
PRECISE = 0.04
"""Relative distance of the two sides of the border that is near enough."""
_DOWN = 2.0
"""After the first misses in a row rates fall faster."""
_HOPELESS = 7
"""Misses in a row, the last at a fiftieth of the first rate: it cannot keep the target at all."""


class Look(NamedTuple):
    """What was asked for, what came, and the share that kept the targets."""

    asked: float
    rate: float
    attainment: float


@dataclass(frozen=True, slots=True)
class Border:
    rate: float
    """Requests per second; 0 where none was found at which it is met."""
    looks: tuple[Look, ...]


def highest(
    look: Callable[[float], tuple[float, float]],
    start: float,
    wanted: float,
    *,
    precise: float = PRECISE,
    growth: float = GROWTH,
    most: int = 12,
    ceiling: float = math.inf,
) -> Border:
    """`look(rate)` gives the rate at which requests came indeed, which varies around the one asked
    for, and the share that attained. `wanted`: share. At most `most` looks, none at a rate above
    `ceiling`, which is the most that is found.

    Attainment is taken to fall with the rate; between the two sides of the border it is taken as
    linear in what came.
    """
    looks: list[Look] = []
    low: Look | None = None
    high: Look | None = None
    rate = min(start, ceiling)
    while len(looks) < most:
        seen = Look(rate, *look(rate))
        looks.append(seen)
        if seen.attainment >= wanted:
            low = seen
        else:
            high = seen
        if low is None:
            if len(looks) >= _HOPELESS:
                break
            rate /= growth if len(looks) < 3 else _DOWN
            growth = max(growth, 1.35)
        elif high is None:
            if rate >= ceiling:
                break
            rate = min(ceiling, rate * growth)
            growth = growth if len(looks) < 2 else growth * growth
        elif high.asked <= low.asked * (1 + precise):
            break
        else:
            rate = _between(low, high, wanted)
    return Border(min(ceiling, _crossing(low, high, wanted)), tuple(looks))


def _between(low: Look, high: Look, wanted: float) -> float:
    """Where the border is likely, never too near to what was looked at already."""
    share = (low.attainment - wanted) / max(1e-9, low.attainment - high.attainment)
    share = min(0.7, max(0.3, share))
    return low.asked + share * (high.asked - low.asked)


def _crossing(low: Look | None, high: Look | None, wanted: float) -> float:
    if low is None:
        return 0.0
    if high is None or high.rate <= low.rate:
        return low.rate
    share = (low.attainment - wanted) / max(1e-9, low.attainment - high.attainment)
    return low.rate + share * (high.rate - low.rate)

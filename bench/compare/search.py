"""The highest rate at which a load is still served as wanted. Pure but for what it calls.

Rates are changed by a factor until one holds and one does not, then the gap between them is halved
on a logarithmic scale. What holds at one rate and fails at a lower one (by chance, near the border)
counts by the lower one: a capacity is what can be relied on.

Plans search in their own way (`planning/search.py`): between two rates they interpolate what
attained. Here a run ends as soon as it is certain to miss, so that a miss does not say by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

STEP = 1.6
"""By which rates change while the border is not between two of them."""


@dataclass(slots=True)
class Capacity:
    """`holds` is 0 when no rate did, `fails` infinite when every one held."""

    holds: float = 0.0
    fails: float = math.inf
    probes: list[tuple[float, float]] = field(default_factory=list)
    """(rate, attainment), in the order in which they were measured."""
    repetition: int = 0
    """Searches of the same repetition had the same requests."""

    @property
    def found(self) -> bool:
        return self.holds > 0 and math.isfinite(self.fails)

    def add(self, rate: float, attainment: float, wanted: float) -> None:
        self.probes.append((rate, attainment))
        failing = [r for r, a in self.probes if a < wanted]
        self.fails = min(failing, default=math.inf)
        self.holds = max(
            (r for r, a in self.probes if a >= wanted and r < self.fails), default=0.0
        )


def highest_rate(
    attainment: Callable[[float], float],
    start: float,
    *,
    wanted: float,
    tolerance: float = 0.05,
    most: int = 10,
    lowest: float = 0.0,
    step: float = STEP,
) -> Capacity:
    """`attainment(rate)` measures once. Ends when the border is known to `tolerance` (of the rate),
    after `most` measurements, or below `lowest`. A `step` near 1 is for a start that is known to be
    near the border. Raises ValueError for a start that is not above
    0."""
    if start <= 0:
        raise ValueError(f"a rate must be above 0, got {start:g}")
    capacity, rate = Capacity(), start
    while len(capacity.probes) < most and rate >= lowest:
        capacity.add(rate, attainment(rate), wanted)
        if not capacity.holds:
            rate = capacity.fails / step
        elif not math.isfinite(capacity.fails):
            rate = capacity.holds * step
        elif capacity.fails <= capacity.holds * (1 + tolerance):
            break
        else:
            rate = math.sqrt(capacity.holds * capacity.fails)
    return capacity

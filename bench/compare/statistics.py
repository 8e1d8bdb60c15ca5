"""Intervals around what repetitions found. Pure.

Repetitions of two layouts are pairs: the same seed, so the same requests at the same times. Ratios
are compared on a logarithmic scale, where twice and half are equally far away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from baton.bench.student import half_width


@dataclass(frozen=True, slots=True)
class Interval:
    """`mid`, and between what it lies with 95 % confidence; infinitely wide of a single value."""

    mid: float
    low: float
    high: float
    count: int
    """Repetitions."""

    @property
    def known(self) -> bool:
        """There was more than one repetition."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def above(self, value: float) -> bool:
        return self.low > value

    def below(self, value: float) -> bool:
        return self.high < value

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON: without the bounds where they are not known."""
        low, high = (self.low, self.high) if self.known else (None, None)
        return {"mid": self.mid, "low": low, "high": high, "count": self.count}


def mean_of(values: Sequence[float]) -> Interval:
    """The mean, by Student's t. Raises ValueError of nothing."""
    if not values:
        raise ValueError("there is no mean of nothing")
    mid = fmean(values)
    half = half_width(values)
    return Interval(mid, mid - half, mid + half, len(values))


def difference_of(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Ours less theirs, pair by pair. Raises ValueError for lengths that differ."""
    return mean_of([a - b for a, b in zip(ours, theirs, strict=True)])


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Ours over theirs, pair by pair: the geometric mean. Where one of a pair is zero there is no
    ratio: infinite, or 1 where both are. Raises ValueError for lengths that differ."""
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs:
        raise ValueError("there is no ratio of nothing")
    if any(a <= 0 or b <= 0 for a, b in pairs):
        over, under = sum(a for a, _ in pairs), sum(b for _, b in pairs)
        mid = over / under if under > 0 else math.inf if over > 0 else 1.0
        return Interval(mid, 0.0, math.inf, len(pairs))
    logs = [math.log(a / b) for a, b in pairs]
    mid, half = fmean(logs), half_width(logs)
    return Interval(math.exp(mid), math.exp(mid - half), _exp(mid + half), len(pairs))


def favours(ours: Sequence[float], theirs: Sequence[float]) -> int:
    """1 where ours are more, pair by pair, with 95 % confidence; -1 where they are less; 0 where
    that is open. Where one of a pair is zero there is no ratio, but by how much it is less. Raises
    ValueError for lengths that differ, or nothing."""
    ratio = ratio_of(ours, theirs)
    better = ratio if ratio.known else difference_of(ours, theirs)
    even = 1.0 if ratio.known else 0.0
    return 1 if better.above(even) else -1 if better.below(even) else 0


def level_of(values: Sequence[float]) -> Interval:
    """The geometric mean, of what cannot be below zero."""
    return ratio_of(values, [1.0] * len(values))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf

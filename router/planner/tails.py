"""Percentiles of what a forecast expects: not only the mean time to the first token and between
tokens, but how long the slowest requests take. Pure.

    TTFT   a mixture: of every kind of prompt its own seconds, after a wait with an exponential tail
    ITL    of a request, its mean: normal around that of its pool, as the batch varies
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from baton.router.planner.queueing import Waiting, normal_below

_LONGEST = 1e6
"""Seconds beyond which nothing is told apart from never."""
_PRECISE = 1e-4


class FirstToken(NamedTuple):
    """Of so many requests: seconds of their own, after a wait."""

    weight: float
    own: float
    wait: Waiting


class Between(NamedTuple):
    """Of so many requests: the mean over their tokens, and how it varies from one to another."""

    weight: float
    mean: float
    deviation: float


class Tails(NamedTuple):
    """Of all requests; weights need not add up to 1."""

    first: tuple[FirstToken, ...] = ()
    between: tuple[Between, ...] = ()

    def ttft_within(self, seconds: float) -> float:
        """The share whose first token comes within so many seconds; 1 of nothing."""
        total = sum(part.weight for part in self.first)
        if total <= 0:
            return 1.0
        return sum(
            part.weight * part.wait.within(seconds - part.own) for part in self.first
        ) / total

    def itl_within(self, seconds: float) -> float:
        """The share whose mean time between tokens is at most this; 1 of nothing."""
        total = sum(part.weight for part in self.between)
        if total <= 0:
            return 1.0
        return sum(
            part.weight * (
                0.0 if part.mean == math.inf
                else normal_below(seconds, part.mean, part.deviation)
            )
            for part in self.between
        ) / total

    def ttft(self, share: float) -> float:
        """Within which so many have their first token; infinite when they never have."""
        return _quantile(self.ttft_within, share)

    def itl(self, share: float) -> float:
        return _quantile(self.itl_within, share)


def mixed(*parts: tuple[float, Tails]) -> Tails:
    """Of several pools, each with the share of all requests that it serves."""
    return Tails(
        tuple(p._replace(weight=p.weight * share) for share, tails in parts if share > 0
              for p in tails.first),
        tuple(p._replace(weight=p.weight * share) for share, tails in parts if share > 0
              for p in tails.between),
    )


def _quantile(within: Callable[[float], float], share: float) -> float:
    """The smallest value with so many at or below it."""
    if within(_LONGEST) < share:
        return math.inf
    if within(0.0) >= share:
        return 0.0
    low, high = 0.0, 1e-3
    while within(high) < share:
        low, high = high, 2 * high
    while high - low > _PRECISE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle) >= share else (middle, high)
    return high

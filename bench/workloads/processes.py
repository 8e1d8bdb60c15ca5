"""When requests come. Seeded: the same arguments give the same times.

| process | intervals |
|---|---|
| constant, variation 0 | all equal |
| Poisson, variation 1 | exponential |
| gamma, variation v | standard deviation v times the mean: above 1, bursts |
| ramp, a rate at the end | the same, ever shorter or longer: the rate changes linearly |
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random


def times(
    rng: Random,
    rate: float,
    start: float,
    end: float,
    variation: float = 1.0,
    last_rate: float | None = None,
) -> Iterator[float]:
    """Arrivals within [start, end), `rate` per second, up to `last_rate` at the end if given.
    `variation`: standard deviation of the intervals over their mean."""
    if last_rate is not None and last_rate != rate:
        yield from _ramp(rng, rate, last_rate, start, end, variation)
        return
    if rate <= 0:
        return
    now = start
    if not variation:
        # Counted rather than added up, so that no error accumulates.
        number = 0
        while (now := start + (number := number + 1) / rate) < end:
            yield now
        return
    shape = 1 / variation**2
    while (now := now + rng.gammavariate(shape, 1 / (shape * rate))) < end:
        yield now


def _ramp(
    rng: Random, first: float, last: float, start: float, end: float, variation: float
) -> Iterator[float]:
    """An even process, in whose time every second is as long as requests come in it: the number
    expected after t seconds is first * t + slope * t^2 / 2."""
    slope = (last - first) / (end - start)
    shape = 1 / variation**2 if variation else 0.0
    expected, total = 0.0, (first + last) / 2 * (end - start)
    while True:
        expected += rng.gammavariate(shape, 1 / shape) if variation else 1.0
        if expected >= total:
            return
        root = math.sqrt(max(0.0, first * first + 2 * slope * expected))
        yield start + 2 * expected / (first + root)

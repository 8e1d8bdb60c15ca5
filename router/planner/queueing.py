"""How long one waits for one of k equal servers, in the steady state. Pure.

Mean by Allen and Cunneen: Erlang's C for the chance of waiting, times the mean of the variations of
arrivals and service. Exact for M/M/k and for M/G/1 (Pollaczek and Khinchin), so for M/D/1. The
tail is taken as exponential, which is what it comes to in all of these.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Waiting(NamedTuple):
    """Seconds before service begins."""

    chance: float
    """Of waiting at all."""
    mean: float
    """Over all, those included that do not wait. Infinite when servers cannot keep up."""

    def within(self, seconds: float) -> float:
        """The share that waits no longer than this."""
        if seconds < 0:
            return 0.0
        if self.mean <= 0.0:
            return 1.0
        if self.mean == math.inf:
            return 1.0 if seconds == math.inf else 0.0
        return 1.0 - self.chance * math.exp(-self.chance * seconds / self.mean)


def erlang_c(servers: int, load: float) -> float:
    """The chance that all of `servers` are busy. `load`: mean number of busy ones, if there were
    enough. 1 at or beyond what they can do."""
    if load <= 0.0:
        return 0.0
    if load >= servers:
        return 1.0
    blocking = 1.0
    for count in range(1, servers + 1):
        blocking = load * blocking / (count + load * blocking)
    return blocking / (1.0 - load / servers * (1.0 - blocking))


def waiting(
    servers: int, rate: float, service: float, service_scv: float, arrival_scv: float
) -> Waiting:
    """`rate` per second, `service` the mean seconds of it; `*_scv` are squared coefficients of
    variation, 1 for Poisson arrivals."""
    load = rate * service
    if load <= 0.0:
        return Waiting(0.0, 0.0)
    if load >= servers:
        return Waiting(1.0, math.inf)
    chance = erlang_c(servers, load)
    return Waiting(chance, chance * service / (servers - load) * (arrival_scv + service_scv) / 2)


def normal_below(value: float, mean: float, deviation: float) -> float:
    """The share of a normal distribution below `value`."""
    if deviation <= 0.0 or math.isinf(value):
        return 1.0 if value >= mean else 0.0
    return 0.5 * math.erfc((mean - value) / (deviation * math.sqrt(2)))

"""`conversation`: several turns, each with all that was said before at its head."""

from __future__ import annotations

from random import Random

from baton.bench.workloads.sessions import Kind, Shared, Turn, around
from baton.bench.workloads.workload import steady


def _session(rng: Random) -> tuple[Shared, list[Turn]]:
    first = Turn(0.0, around(rng, 700, 100, 2000), around(rng, 160, 8, 600))
    more = [
        Turn(rng.expovariate(1 / 4.0) + 2.0, around(rng, 120, 10, 800),
             around(rng, 160, 8, 600))
        for _ in range(rng.randrange(2, 8))
    ]
    return ((1, 64),), [first, *more]


KIND = Kind("conversation", _session, 5.5, 700, 180)
WORKLOAD = steady(KIND, "turns of 150 tokens behind a history of up to 4k, answers of 180")

"""`agent`: programs that call a model in a loop, behind long instructions that they share."""

from __future__ import annotations

from random import Random

from baton.bench.workloads.sessions import Kind, Shared, Turn, around
from baton.bench.workloads.workload import steady


def _session(rng: Random) -> tuple[Shared, list[Turn]]:
    # A few kinds of agents, some much more frequent than others.
    of = min(7, int(rng.expovariate(0.6)))
    turns = [
        Turn(0.0 if n == 0 else rng.expovariate(1 / 1.5) + 1.5, around(rng, 450, 60, 1500),
             around(rng, 70, 8, 300))
        for n in range(rng.randrange(3, 9))
    ]
    return ((200 + of, 2048),), turns


KIND = Kind("agent", _session, 5.5, 800, 80)
WORKLOAD = steady(KIND, "2k of shared instructions, 500 tokens a turn, answers of 80")

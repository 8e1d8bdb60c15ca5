"""`summarise`: long documents that nobody else asks about, short answers."""

from __future__ import annotations

from random import Random

from baton.bench.workloads.sessions import Kind, Shared, Turn, around
from baton.bench.workloads.workload import steady


def _session(rng: Random) -> tuple[Shared, list[Turn]]:
    return (), [Turn(0.0, around(rng, 8000, 4000, 12_000, 0.25), around(rng, 190, 60, 500))]


KIND = Kind("summarise", _session, 1.0, 8000, 200, draws="summary")
WORKLOAD = steady(KIND, "documents of 8k tokens, summaries of 200")

"""`chat`: one question, one answer; nothing is shared."""

from __future__ import annotations

from random import Random

from baton.bench.workloads.sessions import Kind, Shared, Turn, around
from baton.bench.workloads.workload import steady


def _session(rng: Random) -> tuple[Shared, list[Turn]]:
    return (), [Turn(0.0, around(rng, 200, 60, 600), around(rng, 130, 8, 600))]


KIND = Kind("chat", _session, 1.0, 200, 150)
WORKLOAD = steady(KIND, "questions of 60 to 600 tokens, answers of 150")

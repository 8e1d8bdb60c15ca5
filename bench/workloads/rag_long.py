"""`rag-long`: questions behind passages that a search found: long prompts, some passages in many
of them, but seldom at the same place."""

from __future__ import annotations

from random import Random

from baton.bench.workloads.sessions import Kind, Shared, Turn, around
from baton.bench.workloads.workload import steady

_PASSAGES = 200
_TOKENS = 1536


def _session(rng: Random) -> tuple[Shared, list[Turn]]:
    # Zipf: the first passage of all is in one of six prompts at the head.
    number = rng.randrange(4, 9)
    passages = rng.choices(
        range(_PASSAGES), weights=[1 / (rank + 1) for rank in range(_PASSAGES)], k=number
    )
    shared = ((300, 512), *((400 + n, _TOKENS) for n in dict.fromkeys(passages)))
    return shared, [Turn(0.0, around(rng, 60, 10, 300), around(rng, 140, 20, 400))]


KIND = Kind("rag-long", _session, 1.0, 8000, 150)
WORKLOAD = steady(KIND, "questions behind 6k to 12k of retrieved passages, answers of 150")

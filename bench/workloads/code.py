"""`code`: completions in an editor: long prompts that begin with the same files, few tokens out."""

from __future__ import annotations

from random import Random

from baton.bench.workloads.sessions import Kind, Shared, Turn, around
from baton.bench.workloads.workload import steady


def _session(rng: Random) -> tuple[Shared, list[Turn]]:
    shared = (100 + rng.randrange(12), around(rng, 900, 300, 2000))
    shared = (shared[0], shared[1] // 256 * 256)
    return (shared,), [Turn(0.0, around(rng, 700, 100, 2000), around(rng, 24, 4, 96))]


KIND = Kind("code", _session, 1.0, 1200, 28, draws="completion")
WORKLOAD = steady(KIND, "1k to 3k of code behind shared files, completions of 30")

"""Requests of stated lengths, as benchmarks of engines use them: no named workload, but what one
asks for with numbers."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from baton.bench.workloads.sessions import Kind, Shared, Turn, around
from baton.bench.workloads.workload import Workload, steady

_THINK = 2.0
"""Seconds between turns, at least; as many again on average."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    prompt: int = 512
    """Tokens of the first turn's prompt, those it shares included."""
    output: int = 64
    spread: float = 0.0
    """Of the logarithms of both lengths; 0: all alike. They stay within a quarter and four times
    the median."""
    shared: float = 0.0
    """Share of the prompt that it has in common with others, at its head."""
    groups: int = 1
    """So many heads, of which each session has one, all equally often."""
    turns: int = 1
    """Requests of a session; each later one adds as much as the first has of its own."""

    def workload(self) -> Workload:
        name = f"{self.prompt}/{self.output}"
        own = max(1, self.prompt - round(self.shared * self.prompt))
        kind = Kind(name, self._session, float(self.turns), own, self.output, draws="lengths")
        return steady(kind, f"prompts of {self.prompt} tokens, answers of {self.output}")

    def _session(self, rng: Random) -> tuple[Shared, list[Turn]]:
        head = round(self.shared * self.prompt)
        own = max(1, self.prompt - head)
        turns = [
            Turn(0.0 if n == 0 else _THINK + rng.expovariate(1 / _THINK),
                 self._drawn(rng, own), self._drawn(rng, self.output) - 1)
            for n in range(self.turns)
        ]
        shared = ((500 + rng.randrange(self.groups), head),) if head else ()
        return shared, turns

    def _drawn(self, rng: Random, median: int) -> int:
        if not self.spread:
            return median
        return max(1, around(rng, median, median / 4, median * 4, self.spread))

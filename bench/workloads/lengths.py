"""Requests of stated lengths, as benchmarks of engines use them: no named workload, but what one
asks for with numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from baton.bench.workloads.sessions import Kind, Shared, Turn, around
from baton.bench.workloads.workload import Workload, steady

_THINK = 2.0
"""Seconds between turns, at least; as many again on average."""
_MOST = 4
"""Times as long as the mean, or as short."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    prompt: int = 512
    """Tokens of the first turn's prompt, those it shares included; their mean."""
    output: int = 64
    """Their mean."""
    spread: float = 0.0
    """Standard deviation of the logarithms of both lengths (lognormal); 0: all alike. They stay
    within a quarter and four times the mean."""
    output_spread: float | None = None
    """Of answers, if it is another."""
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
        answers = self.spread if self.output_spread is None else self.output_spread
        turns = [
            Turn(0.0 if n == 0 else _THINK + rng.expovariate(1 / _THINK),
                 _drawn(rng, own, self.spread), _drawn(rng, self.output, answers) - 1)
            for n in range(self.turns)
        ]
        shared = ((500 + rng.randrange(self.groups), head),) if head else ()
        return shared, turns

    @property
    def longest_output(self) -> int:
        """Tokens: no answer is longer."""
        spread = self.spread if self.output_spread is None else self.output_spread
        return _MOST * self.output if spread else self.output


def _drawn(rng: Random, mean: int, spread: float) -> int:
    if not spread:
        return mean
    median = mean * math.exp(-(spread**2) / 2)
    return max(1, around(rng, median, mean / _MOST, mean * _MOST, spread))

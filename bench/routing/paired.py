"""How much better one system is than another on the same requests, and how sure that is. Pure.

    requests of all seeds, by arrival --> blocks of some seconds, the same for both systems
    attained of both in each block    --> ratio of the sums; blocks drawn anew, over and over, say
                                          within which bounds it lies

A request falls into the same block whoever serves it, so what is easy or hard about a block is so
for both, and the ratio varies much less than either. One run of some seconds says little: near
saturation goodput varies by a tenth from seed to seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

from baton.bench.simulator.outcome import Outcome

BLOCK = 5.0
"""Seconds: longer than queues live, so that blocks are nearly independent."""
ROUNDS = 1000
SURE = 0.9
"""Of the draws, what lies within the bounds."""
FEWEST = 6
"""Blocks from which on their spread says anything."""


class Ratio(NamedTuple):
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(ours: Sequence[Iterable[Outcome]], theirs: Sequence[Iterable[Outcome]]) -> Ratio:
    """Of goodput, ours over theirs; run by run, each with the same requests in both."""
    mine, others = _by_block(ours), _by_block(theirs)
    blocks = [(mine[block], others[block]) for block in sorted(mine.keys() | others.keys())]
    if not blocks:
        return Ratio(1.0, 1.0, 1.0)
    if len(blocks) < FEWEST:
        return Ratio(_of(blocks), 0.0, math.inf)
    random = Random(len(blocks))
    drawn = sorted(_of(random.choices(blocks, k=len(blocks))) for _ in range(ROUNDS))
    outside = round((1 - SURE) / 2 * ROUNDS)
    return Ratio(_of(blocks), drawn[outside], drawn[-1 - outside])


def mean(ratios: Sequence[float]) -> float:
    """Geometric: half and twice as much are even."""
    if not ratios or min(ratios) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _by_block(runs: Sequence[Iterable[Outcome]]) -> Counter[tuple[int, int]]:
    return Counter(
        (run, int(outcome.at // BLOCK))
        for run, outcomes in enumerate(runs)
        for outcome in outcomes
        if outcome.attained
    )


def _of(blocks: Sequence[tuple[int, int]]) -> float:
    ours, theirs = sum(a for a, _ in blocks), sum(b for _, b in blocks)
    return ours / theirs if theirs else 1.0

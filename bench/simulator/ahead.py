"""A run of steps in which a batch only decodes, planned at once and taken up to where it matters.

    plan_ahead --run_to--> done ... --run_to--> end         `end` may come closer meanwhile

All times follow from the curve, as for single steps and to the last bit: they are summed in the
same order. Nothing of it has happened before `run_to`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import compress

import numpy as np

from baton.bench.simulator.noise import Noise
from baton.engine.batch import BatchItem
from baton.engine.scripted import plain_tokens, scripted_tokens
from baton.protocol.curves import StepCurve, StepShape
from baton.protocol.ids import RequestKey

LEAST = 3
"""Steps that are worth planning."""
MOST = 512
"""That are planned at once."""


@dataclass(slots=True)
class Ran:
    """Steps that were taken: their tokens are to be told."""

    times: list[float]
    """When each ended."""
    keys: list[RequestKey]
    positions: list[int]
    """The output position of each sequence's first token here."""
    tokens: list[list[int]]
    """Of each sequence, one for each step."""
    fresh: bool
    """Some are new in this batch. The router looks at the second token of a request, so what the
    first of these steps brought is told alone."""
    told: int = 0
    """Steps whose tokens have been told."""

    def of(self, whose: list[bool]) -> Ran:
        """Of these sequences only."""
        if all(whose):
            return self
        return Ran(
            self.times,
            list(compress(self.keys, whose)),
            list(compress(self.positions, whose)),
            list(compress(self.tokens, whose)),
            self.fresh,
        )


@dataclass(slots=True, eq=False)
class Ahead:
    batch: list[BatchItem]
    times: list[float]
    """When each step ends."""
    seconds: list[float]
    end: int
    """It is to be taken so far."""
    drawn: int
    """Factors of noise."""
    done: int = 0
    change: int = 0
    """The step after which the prefix cache changes next."""

    def run_to(self, end: int) -> tuple[Ran, float]:
        """The steps from `done` to `end`, which are done then, and the seconds that they took."""
        first, self.done = self.done, end
        count = end - first
        keys, positions, tokens = [], [], []
        for item in self.batch:
            seq = item.seq
            position = len(seq.tokens) - seq.prompt_len
            keys.append(seq.request.key)
            positions.append(position)
            tokens.append(scripted_tokens(seq.request, position, count))
        ran = Ran(self.times[first:end], keys, positions, tokens, fresh=not first)
        return ran, sum(self.seconds[first:end])


def plan_ahead(
    batch: list[BatchItem],
    shape: StepShape,
    steps: int,
    until: float,
    now: float,
    curve: StepCurve,
    factor: float,
    noise: Noise,
) -> Ahead | None:
    """Of at most `steps` steps, the first of which has `shape` and begins `now`; none begins after
    `until`. None when that is not worth it."""
    for item in batch:
        seq = item.seq
        left = plain_tokens(seq.request, len(seq.tokens) - seq.prompt_len)
        if left < steps:
            steps = left
    if steps < LEAST:
        return None
    count = shape.decode_sequences
    context = np.arange(shape.decode_context, shape.decode_context + steps * count, count)
    drawn = noise.take(steps)
    seconds = (curve.base + curve.decode * count + curve.context * context) * factor * drawn
    times: list[float] = np.add.accumulate(np.concatenate(((now,), seconds))).tolist()
    if times[-2] >= until:
        # A step that begins at `until` or later may be another one.
        fewer = bisect_left(times, until)
        noise.put_back(steps - fewer)
        steps = fewer
        if steps < LEAST:
            noise.put_back(steps)
            return None
    assert math.isfinite(times[-1])
    del times[0]
    return Ahead(batch, times[:steps], seconds[:steps].tolist(), steps, steps)

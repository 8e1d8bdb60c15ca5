"""A runner without a model: each step takes the time that a curve says, tokens follow from seeds.

For trying out a cluster of machines that are not there: all of a worker is real but this and the
size of its KV blocks, whose bytes are as they were. There are no log-probabilities.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from random import Random

from baton.engine.batch import BatchItem, StepResult, step_shape
from baton.engine.commands import LayersDone
from baton.engine.layer_marks import LayerMarks
from baton.engine.scripted import scripted_token
from baton.protocol.curves import StepCurve
from baton.protocol.kvlayout import KVLayout


class PacedRunner:
    """Steps take `curve.seconds`, times lognormal noise of its spread; `seed` draws that."""

    def __init__(
        self,
        curve: StepCurve,
        layout: KVLayout,
        *,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._curve = curve
        self._layout = layout
        self._random = Random(seed)
        self._clock = clock
        self._sleep = sleep

    def step(self, items: Sequence[BatchItem]) -> StepResult:
        end = self._clock() + self._seconds(items)
        tokens = [
            scripted_token(item.seq.request, item.seq.num_output) if item.sample else None
            for item in items
        ]
        left = end - self._clock()
        if left > 0:
            self._sleep(left)
        nothing = [None] * len(items)
        return StepResult(tokens, [*nothing], [*nothing])

    def tell_layers(self, publish: Callable[[LayersDone], None]) -> LayerMarks:
        """Nothing is ever told: a step ends as a whole."""
        return LayerMarks(
            publish, block_size=self._layout.block_size, num_layers=self._layout.num_layers,
            mark=None,
        )

    def _seconds(self, items: Sequence[BatchItem]) -> float:
        seconds = self._curve.seconds(step_shape(items))
        return seconds * math.exp(self._random.gauss(0.0, self._curve.spread))

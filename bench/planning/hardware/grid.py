"""From step times that somebody can tell to a curve: which steps are asked for, and the fit.

A device whose steps are a maximum of two costs (memory, arithmetic) is no sum of them; the curve is
the sum that comes nearest over these steps, and its spread says how near.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from baton.bench.planning.hardware.made import SPREAD
from baton.engine.step_fit import fit_steps
from baton.protocol.curves import StepCurve, StepShape, attention_pairs


class Step(NamedTuple):
    """A step of equal prompts and equal decoding sequences."""

    prompts: int = 0
    tokens: int = 0
    """Of each prompt, all of it."""
    sequences: int = 0
    context: int = 0
    """Of each decoding sequence."""

    @property
    def shape(self) -> StepShape:
        return StepShape(
            self.prompts,
            self.prompts * self.tokens,
            self.prompts * attention_pairs(self.tokens, 0),
            self.sequences,
            self.sequences * self.context,
        )


MOST_TOKENS = 8192
MOST_SEQUENCES = 256
MOST_CONTEXT = 1_000_000
"""Of all sequences together."""

STEPS = (
    *(Step(1, tokens) for tokens in (128, 256, 512, 1024, 2048, 4096, MOST_TOKENS)),
    *(Step(*many) for many in ((2, 1024), (4, 1024), (8, 1024), (2, 4096), (4, 2048))),
    *(
        Step(0, 0, sequences, context)
        for sequences in (1, 2, 4, 8, 16, 32, 64, 128, MOST_SEQUENCES)
        for context in (256, 1024, 4096, 8192)
        if sequences * context <= MOST_CONTEXT
    ),
    *(
        Step(1, tokens, sequences, tokens)
        for sequences in (1, 8, 32, 128)
        for tokens in (512, 1024, 2048, 4096)
    ),
    # Of prompts that are alone in their step, tokens and pairs grow together: only many short ones
    # tell what each of them costs.
    *(
        Step(prompts, tokens)
        for tokens in (64, 128, 256, 512)
        for prompts in (4, 16, 64, 128)
        if prompts * tokens <= MOST_TOKENS
    ),
)


class Fitted(NamedTuple):
    curve: StepCurve
    error: float
    """Median of |curve / asked - 1| over the steps."""


def fit(seconds: Callable[[Step], float]) -> Fitted:
    """Of a machine whose steps take so long, noise left out. Raises ValueError for a time that
    cannot be."""
    asked = [(step.shape, seconds(step)) for step in STEPS]
    if any(not 0 < time < 1e4 for _, time in asked):
        raise ValueError("steps take more than nothing")
    curve = fit_steps(asked)
    errors = [abs(curve.seconds(shape) / time - 1) for shape, time in asked]
    # How far the curve is off is no noise of steps: it does not even out over many of them.
    curve = msgspec.structs.replace(curve, spread=SPREAD, covariance=())
    return Fitted(curve, statistics.median(errors))

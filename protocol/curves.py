"""How long a step or a transfer takes, as measured: the curves that every decision is made from.

    seconds = base
            + chunk x prompts with a chunk in the step
            + token x their tokens              + pair    x the pairs of tokens these attend over
            + decode x sequences that decode    + context x the tokens these attend to

Linear in what a step holds, with no coefficient below zero, so that questions asked backwards (the
largest chunk that fits into a budget) have closed answers. A curve is a value: workers fit it
(`curve_fit.py`) and send it, routers, planner and simulator ask it. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import msgspec

Cost = Annotated[float, msgspec.Meta(ge=0)]
"""Checked on arrival: a negative one would answer backward questions with nonsense."""

P90 = 1.645
"""Standard deviations on either side that hold nine in ten."""


def attention_pairs(tokens: int, past: int) -> int:
    """(token, context token) pairs that `tokens` new tokens attend over, after `past` others."""
    return tokens * past + tokens * (tokens + 1) // 2


class StepShape(msgspec.Struct, frozen=True, array_like=True):
    """What a step holds; all that its duration is taken to depend on."""

    prefill_chunks: int = 0
    """Prompts that have a chunk in this step."""
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    """Sum of `attention_pairs` over the chunks."""
    decode_sequences: int = 0
    decode_context: int = 0
    """Sum over the decoding sequences of the tokens that each attends to."""

    @classmethod
    def chunk(cls, tokens: int, past: int = 0) -> StepShape:
        """One chunk of one prompt."""
        return cls(1, tokens, attention_pairs(tokens, past))

    @classmethod
    def decodes(cls, sequences: int, context: int) -> StepShape:
        """`context` is the sum over the sequences."""
        return cls(0, 0, 0, sequences, context)

    def __add__(self, other: StepShape) -> StepShape:
        """Both in one step."""
        return StepShape(
            self.prefill_chunks + other.prefill_chunks,
            self.prefill_tokens + other.prefill_tokens,
            self.prefill_pairs + other.prefill_pairs,
            self.decode_sequences + other.decode_sequences,
            self.decode_context + other.decode_context,
        )

    @property
    def features(self) -> tuple[float, ...]:
        """In the order of a curve's coefficients."""
        return (
            1.0,
            self.prefill_chunks,
            self.prefill_tokens,
            self.prefill_pairs,
            self.decode_sequences,
            self.decode_context,
        )


NOTHING = StepShape()


class StepCurve(msgspec.Struct, frozen=True, array_like=True, kw_only=True, cache_hash=True):
    """Seconds of one engine step. Coefficients are in seconds and at least 0."""

    base: Cost
    chunk: Cost
    token: Cost
    pair: Cost
    decode: Cost
    context: Cost
    spread: Cost
    """Standard deviation of log(actual / predicted), over ordinary steps."""
    steps: int
    """How many were seen. 0: only what a profile or a guess said."""
    covariance: tuple[float, ...] = ()
    """Of the coefficients, upper triangle by rows, in seconds squared. Empty: taken as exact."""

    @property
    def coefficients(self) -> tuple[float, ...]:
        return (self.base, self.chunk, self.token, self.pair, self.decode, self.context)

    def seconds(self, shape: StepShape) -> float:
        return (
            self.base
            + self.chunk * shape.prefill_chunks
            + self.token * shape.prefill_tokens
            + self.pair * shape.prefill_pairs
            + self.decode * shape.decode_sequences
            + self.context * shape.decode_context
        )

    def interval(self, shape: StepShape, deviations: float = P90) -> tuple[float, float]:
        """(low, high) around `seconds`: the spread of single steps, and how little is known of
        steps like this one."""
        return _interval(self.seconds(shape), shape.features, self, deviations)

    def scaled(self, factor: float) -> StepCurve:
        """The same machine, so many times slower."""
        return msgspec.structs.replace(
            self,
            base=self.base * factor,
            chunk=self.chunk * factor,
            token=self.token * factor,
            pair=self.pair * factor,
            decode=self.decode * factor,
            context=self.context * factor,
            covariance=tuple(value * factor * factor for value in self.covariance),
        )

    # -- asked backwards -----------------------------------------------------------------------

    def largest_chunk(
        self, budget: float, beside: StepShape = NOTHING, *, past: int = 0, limit: int
    ) -> int:
        """Prompt tokens, at most `limit`, that one more chunk of a step may have if the step is to
        take at most `budget` seconds. `beside`: what it holds already; `past`: tokens of this
        prompt before the chunk. 0 when not even one token fits."""
        left = budget - self.seconds(beside) - self.chunk
        # token * n + pair * (n * past + n * (n + 1) / 2) <= left
        half, linear = self.pair / 2, self.token + self.pair * (past + 0.5)
        if left < half + linear:
            return 0
        if limit * (linear + limit * half) <= left:
            return limit
        # This form of the root stays exact as `half` goes to nothing.
        root = 2 * left / (linear + math.sqrt(linear * linear + 4 * half * left))
        return max(1, min(limit, int(root * (1 + 1e-12))))

    def prefill_seconds(
        self, tokens: int, cached: int, chunk: int, beside: StepShape = NOTHING
    ) -> float:
        """Until all but the first `cached` of a prompt's `tokens` are computed, in chunks of
        `chunk`, each in a step that also holds `beside`. 0 when there is nothing to compute."""
        missing = tokens - cached
        if missing <= 0:
            return 0.0
        steps = -(-missing // chunk)
        return (
            steps * (self.seconds(beside) + self.chunk)
            + self.token * missing
            + self.pair * attention_pairs(missing, cached)
        )


class LinkCurve(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Seconds that a transfer between two workers takes."""

    latency: Cost
    byte: Cost
    """Seconds per byte."""
    spread: Cost
    """Standard deviation of log(actual / predicted), over ordinary transfers."""
    transfers: int
    covariance: tuple[float, ...] = ()
    """As a StepCurve's."""

    @property
    def coefficients(self) -> tuple[float, ...]:
        return (self.latency, self.byte)

    @property
    def bandwidth(self) -> float:
        """Bytes per second, once under way."""
        return 1 / self.byte if self.byte else math.inf

    def seconds(self, num_bytes: int) -> float:
        return self.latency + self.byte * num_bytes

    def interval(self, num_bytes: int, deviations: float = P90) -> tuple[float, float]:
        """(low, high) around `seconds`."""
        return _interval(self.seconds(num_bytes), (1.0, num_bytes), self, deviations)

    def largest_transfer(self, budget: float) -> int:
        """Bytes that arrive within `budget` seconds."""
        left = budget - self.latency
        if left <= 0:
            return 0
        return int(min(left / self.byte, 2.0**62)) if self.byte else 2**62


def _interval(
    seconds: float, features: Sequence[float], curve: StepCurve | LinkCurve, deviations: float
) -> tuple[float, float]:
    """Around a prediction, in its logarithm: durations vary by factors."""
    if seconds <= 0:
        return (0.0, 0.0)
    variance = curve.spread**2 + _quadratic(features, curve.covariance) / seconds**2
    factor = math.exp(deviations * math.sqrt(max(0.0, variance)))
    return (seconds / factor, seconds * factor)


def _quadratic(vector: Sequence[float], triangle: Sequence[float]) -> float:
    """x' M x, of M's upper triangle by rows."""
    if not triangle:
        return 0.0
    total, place = 0.0, 0
    for row, left in enumerate(vector):
        for column in range(row, len(vector)):
            term = left * vector[column] * triangle[place]
            total += term if row == column else 2 * term
            place += 1
    return total

"""How many prompt tokens a step may compute beside its decodes. Pure.

Where the sequences that decode have an inter-token target and the worker knows how long its steps
take, a step is filled with prompts until it would take as long as the tightest of these targets,
less what steps commonly vary by. Where there is no target, no curve or nothing that decodes, the
role divides the step (`SchedulerLimits.prefill_budget`).

Prompts do not starve where decodes leave no room: after `STAND_BACK` - 1 steps without, one has
`STAND_BACK` blocks of them. That is one block a step, but the fixed cost of a chunk is paid, and
the target missed, in one step of `STAND_BACK` only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from baton.engine.batch import BatchItem
from baton.engine.limits import SchedulerLimits
from baton.protocol.curves import NOTHING, StepCurve, StepShape

STAND_BACK = 4
DEVIATIONS = 0.5
"""Of a step's duration, kept free below the target. What is wanted is a mean over steps, and that
of steps that vary by s about their median is exp(s^2 / 2) of it."""
LEAST_USED = 0.5
"""Part of the target that is used however much steps vary."""


class StepBudget:
    """What is left of one step. `seconds`: how long it may take in all, None for as long as its
    `tokens` take. `minimum`: tokens that it may have whatever they take."""

    def __init__(
        self,
        tokens: int,
        limits: SchedulerLimits,
        block_size: int,
        *,
        seconds: float | None = None,
        curve: StepCurve | None = None,
        shape: StepShape = NOTHING,
        minimum: int = 0,
    ) -> None:
        self.tokens = tokens
        self._chunk = limits.prefill_chunk
        self._block_size = block_size
        self._seconds = seconds
        self._curve = curve
        self._shape = shape
        self._minimum = minimum
        self._kept = (0, 0.0, 0)
        self.refused = False
        """There was something to compute, and no time for it."""
        self.spent = False

    def chunk(self, past: int, left: int) -> int:
        """Tokens for the next chunk, of a prompt with `past` tokens computed and `left` to
        compute. 0 when it has to wait."""
        size = min(left, self.tokens, self._chunk)
        if size <= 0:
            return 0
        if self._seconds is None or self._curve is None:
            return self._whole_blocks(past, size) or size if size < left else size
        fits = self._curve.largest_chunk(self._seconds, self._shape, past=past, limit=size)
        if fits < left:
            fits = self._whole_blocks(past, fits)
        if fits == 0:
            fits = min(size, self._minimum)
            self.refused = self.refused or fits == 0
        return fits

    def spend(self, past: int, tokens: int) -> None:
        """A chunk of so many tokens is in the step."""
        self.spent = True
        self.tokens -= tokens
        self._minimum = max(0, self._minimum - tokens)
        if self._seconds is not None:
            self._shape += StepShape.chunk(tokens, past)

    def keep_half(self) -> None:
        """Half of what is left is kept for later."""
        self._kept = (self.tokens // 2, self._left_seconds() / 2, self._minimum // 2)
        self._take_back(-1)

    def give_back(self) -> None:
        """What was kept, to spend now."""
        self._take_back(1)
        self._kept = (0, 0.0, 0)

    def _take_back(self, sign: int) -> None:
        tokens, seconds, minimum = self._kept
        self.tokens += sign * tokens
        self._minimum += sign * minimum
        if self._seconds is not None:
            self._seconds += sign * seconds

    def _left_seconds(self) -> float:
        if self._seconds is None or self._curve is None:
            return 0.0
        return max(0.0, self._seconds - self._curve.seconds(self._shape))

    def _whole_blocks(self, past: int, tokens: int) -> int:
        """As many as end where a block ends, so that all of the chunk can be handed over."""
        return max(0, (past + tokens) // self._block_size * self._block_size - past)


class StepBudgets:
    """Makes the budget of each step. `curve` may be replaced at any time."""

    def __init__(self, limits: SchedulerLimits, block_size: int) -> None:
        self.curve: StepCurve | None = None
        self._limits = limits
        self._block_size = block_size
        self._last: StepBudget | None = None
        self._stood_back = 0

    def next(self, role: str, decodes: Sequence[BatchItem]) -> StepBudget:
        """Of a step that has these decodes, for a worker that has something to prefill."""
        last, self._last = self._last, None
        if last is not None and last.refused and not last.spent:
            self._stood_back += 1
        else:
            self._stood_back = 0
        itl = min((item.seq.itl for item in decodes), default=math.inf)
        if self.curve is None or itl == math.inf:
            tokens = self._limits.prefill_budget(role, len(decodes))
            return StepBudget(tokens, self._limits, self._block_size)
        context = len(decodes) + sum(item.seq.num_computed for item in decodes)
        self._last = self.beside(
            StepShape.decodes(len(decodes), context),
            itl,
            STAND_BACK * self._block_size if self._stood_back >= STAND_BACK - 1 else 0,
        )
        return self._last

    def average(
        self, role: str, decodes: StepShape, itl: float, *, past: int
    ) -> tuple[int, float]:
        """(tokens, chunks) that a step with such decodes has of one long prompt, `past` tokens of
        which are computed. At least one token."""
        if self.curve is None or itl == math.inf:
            return self._limits.prefill_budget(role, decodes.decode_sequences), 1.0
        limit = self._limits.max_batch_tokens - decodes.decode_sequences
        fits = self.curve.largest_chunk(self._seconds(itl), decodes, past=past, limit=limit)
        fits -= fits % self._block_size
        return (fits, 1.0) if fits else (self._block_size, 1 / STAND_BACK)

    def beside(self, decodes: StepShape, itl: float, minimum: int = 0) -> StepBudget:
        """Of a step with such decodes, the tightest of which wants a token every `itl` seconds.
        There must be a curve."""
        assert self.curve is not None
        return StepBudget(
            self._limits.max_batch_tokens - decodes.decode_sequences,
            self._limits,
            self._block_size,
            seconds=self._seconds(itl),
            curve=self.curve,
            shape=decodes,
            minimum=minimum,
        )

    def _seconds(self, itl: float) -> float:
        assert self.curve is not None
        return itl * max(LEAST_USED, math.exp(-DEVIATIONS * self.curve.spread))

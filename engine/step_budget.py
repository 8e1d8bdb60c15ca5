"""How many prompt tokens a step may compute beside its decodes. Pure.

Where the sequences that decode have an inter-token target and the worker knows how long its steps
take, a step is filled with prompts until it would take as long as the tightest of these targets,
less what steps commonly vary by. Where there is no target, no curve or nothing that decodes, the
role divides the step (`SchedulerLimits.prefill_budget`).

That target is a mean over the tokens of a stream. While there are no prompts steps are shorter and
streams get ahead; half of what the one least ahead has may be spent on a step again, which is no
longer than one and a half times the target. So prompts that come at intervals take fewer steps.

Prompts do not starve where decodes leave no room: they have a block a step nevertheless. Where the
fixed cost of a chunk is more than that of a block's tokens, that is k blocks in every k-th step,
with k up to `STAND_BACK`: the mean is less then, and the target is missed in fewer steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from baton.engine.batch import BatchItem
from baton.engine.limits import SchedulerLimits
from baton.protocol.curves import NOTHING, StepCurve, StepShape

STAND_BACK = 4
"""Steps; a step that makes up for more would be felt."""
DEVIATIONS = 0.5
"""Of a step's duration, kept free below the target. What is wanted is a mean over steps, and that
of steps that vary by s about their median is exp(s^2 / 2) of it."""
LEAST_USED = 0.5
"""Part of the target that is used however much steps vary."""
SPENT = 0.5
"""Of what streams are ahead of their target, how much a step may take: some is always left for what
nobody foresees."""
MOST = 0.5
"""Of the target, by how much a step may be longer: what is seen as a pause."""


class StepBudget:
    """What is left of one step. `seconds`: how long it may take in all, None for as long as its
    `tokens` take. `stood_back`: so many steps before it had no time for prompts."""

    def __init__(
        self,
        tokens: int,
        limits: SchedulerLimits,
        block_size: int,
        *,
        seconds: float | None = None,
        curve: StepCurve | None = None,
        shape: StepShape = NOTHING,
        stood_back: int = 0,
    ) -> None:
        self.tokens = tokens
        self._chunk = limits.prefill_chunk
        self._block_size = block_size
        self._seconds = seconds
        self._curve = curve
        self._shape = shape
        self._stood_back = stood_back
        self._made_up = 0
        self._kept = (0, 0.0)
        self.scarce = False
        """There was something to compute, and no time for it but the minimum."""
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
            fits = min(size, self._minimum(past))
            self.scarce = True
        return fits

    def spend(self, past: int, tokens: int) -> None:
        """A chunk of so many tokens is in the step."""
        self.spent = True
        self.tokens -= tokens
        self._made_up += tokens
        if self._seconds is not None:
            self._shape += StepShape.chunk(tokens, past)

    def keep_half(self) -> None:
        """Half of what is left is kept for later."""
        self._kept = (self.tokens // 2, self._left_seconds() / 2)
        self._take_back(-1)

    def give_back(self) -> None:
        """What was kept, to spend now."""
        self._take_back(1)
        self._kept = (0, 0.0)

    def _take_back(self, sign: int) -> None:
        tokens, seconds = self._kept
        self.tokens += sign * tokens
        if self._seconds is not None:
            self._seconds += sign * seconds

    def _minimum(self, past: int) -> int:
        """Tokens that a prompt has whatever they take."""
        assert self._curve is not None
        wanted = worthwhile_blocks(self._curve, self._block_size, past)
        if self._stood_back < wanted - 1 and self._shape.decode_sequences:
            return 0
        return max(0, wanted * self._block_size - self._made_up)

    def _left_seconds(self) -> float:
        if self._seconds is None or self._curve is None:
            return 0.0
        return max(0.0, self._seconds - self._curve.seconds(self._shape))

    def _whole_blocks(self, past: int, tokens: int) -> int:
        """As many as end where a block ends, so that all of the chunk can be handed over."""
        return max(0, (past + tokens) // self._block_size * self._block_size - past)


def worthwhile_blocks(curve: StepCurve, block_size: int, past: int) -> int:
    """Blocks of a prompt, of which `past` tokens are computed, that cost as much as it does to
    have a chunk of it in a step at all; from 1 to STAND_BACK."""
    block = block_size * (curve.token + curve.pair * (past + block_size / 2))
    if curve.chunk <= block:
        return 1
    return STAND_BACK if curve.chunk > STAND_BACK * block else math.ceil(curve.chunk / block)


class StepBudgets:
    """Makes the budget of each step. `curve` may be replaced at any time."""

    def __init__(self, limits: SchedulerLimits, block_size: int) -> None:
        self.curve: StepCurve | None = None
        self._limits = limits
        self._block_size = block_size
        self._last: StepBudget | None = None
        self._stood_back = 0

    def next(
        self, role: str, decodes: Sequence[BatchItem], now: float, longest: float = math.inf
    ) -> StepBudget:
        """Of a step that has these decodes and takes at most `longest` seconds, for a worker that
        has something to prefill."""
        last, self._last = self._last, None
        if last is not None and last.scarce and not last.spent:
            self._stood_back += 1
        else:
            self._stood_back = 0
        itl = min((item.seq.itl for item in decodes), default=math.inf)
        if self.curve is None or itl == longest == math.inf:
            tokens = self._limits.prefill_budget(role, len(decodes))
            return StepBudget(tokens, self._limits, self._block_size)
        context = len(decodes) + sum(item.seq.num_computed for item in decodes)
        self._last = self.beside(
            StepShape.decodes(len(decodes), context),
            itl,
            self._stood_back,
            self._credit(decodes, now),
            longest,
        )
        return self._last

    def _credit(self, decodes: Sequence[BatchItem], now: float) -> float:
        """Seconds by which a step with these may be longer than the tightest target."""
        least = math.inf
        for item in decodes:
            seq = item.seq
            if seq.due_from is not None:
                ahead = seq.due_from + seq.itl * len(seq.tokens) - now
                least = min(least, SPENT * ahead, MOST * seq.itl)
        return max(0.0, least) if least < math.inf else 0.0

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
        if fits:
            return fits, 1.0
        return self._block_size, 1 / worthwhile_blocks(self.curve, self._block_size, past)

    def beside(
        self,
        decodes: StepShape,
        itl: float,
        stood_back: int = 0,
        credit: float = 0.0,
        longest: float = math.inf,
    ) -> StepBudget:
        """Of a step with such decodes, the tightest of which wants a token every `itl` seconds and
        can do with `credit` seconds more; `longest`: that it may take in any case. There must be a
        curve."""
        assert self.curve is not None
        return StepBudget(
            self._limits.max_batch_tokens - decodes.decode_sequences,
            self._limits,
            self._block_size,
            seconds=min(self._seconds(itl) + credit, longest),
            curve=self.curve,
            shape=decodes,
            stood_back=stood_back,
        )

    def _seconds(self, itl: float) -> float:
        assert self.curve is not None
        return itl * max(LEAST_USED, math.exp(-DEVIATIONS * self.curve.spread))

"""How fast one worker is with what it has on its hands: the numbers that predictions are made of.

    prompt          queue, then chunks, each in a step with all that decodes there
    decoding        one step a token, stretched by the prompts that are computed in between
    what others lose    each that decodes: the chunks' own time; each that decodes and each prompt:
                        what one more sequence adds to a step

Made anew when something of the worker changes, not when time passes: `now` is passed in. Times are
seconds on the caller's clock. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from baton.protocol.curves import NOTHING, LinkCurve, StepCurve, StepShape, attention_pairs

COUNTING = StepCurve(
    base=0.0, chunk=0.0, token=1e-4, pair=0.0, decode=1e-4, context=0.0, spread=1.0, steps=0
)
"""Where no worker's speed is known: costs are counts of tokens, and their seconds mean nothing."""

CHUNK = 512
"""Prompt tokens of a chunk where nobody decodes and a worker has not said otherwise."""
CONTEXT = 512
"""Tokens that a sequence attends to, where none in particular is meant."""
LEAST_CHUNK = 16
"""A block: prompts go on even where those that decode leave no room."""
ITL_SHARE = 0.9
"""Of the target for tokens' intervals that a step with a chunk may take; the rest is for what a
curve does not foresee."""
MOST_PRESSURE = 0.9
OVERDUE_SHARE = 0.1
"""Of a prompt that takes longer than predicted, so much is taken to be left."""
HORIZON = 0.05


@dataclass(frozen=True, slots=True)
class Correction:
    """What measured latencies say that the curves do not: see `accuracy.py`."""

    lag: float = 0.0
    """Seconds of a first token that depend on no work."""
    prefill: float = 1.0
    """Actual over predicted."""
    decode: float = 1.0
    handoff: float = 0.0
    """Seconds from the first token to when decoding goes on elsewhere, beside the transfer."""


UNCORRECTED = Correction()


@dataclass(slots=True)
class WorkerModel:
    """`curve` None: unknown, and `guess` stands for it."""

    curve: StepCurve | None = None
    guess: StepCurve = COUNTING
    decoding: int = 0
    """Sequences that decode here, or are about to; other routers' too."""
    context: int = 0
    """Tokens that they attend to."""
    itl: float | None = None
    """The tightest target among them."""
    head_until: float = -math.inf
    """When the prompt that is being computed will be through; in the past for none."""
    head_work: float = 0.0
    """What it takes in all."""
    queued: float = 0.0
    """Seconds of prompts behind it. (All these as they are after correction.)"""
    pressure: float = 0.0
    """Share of its time that prompts have taken of late which did not give way to others."""
    shared: bool = False
    """Prompts that are not counted here may be in the step that is under way."""
    typical: float = 0.0
    """Seconds of one of these prompts, on average."""
    most: int = CHUNK
    """Tokens of one prompt that a step may have."""
    links: Mapping[str, LinkCurve] = field(default_factory=dict)
    """By the receiver's worker id."""
    correction: Correction = UNCORRECTED

    measured: bool = field(init=False)
    speed: StepCurve = field(init=False)
    step: float = field(init=False)
    """Of all that decodes, without prompts; the base alone where nobody does."""
    chunk: int = field(init=False)
    """Tokens of a chunk that the intervals of those that decode allow."""
    chunk_step: float = field(init=False)
    """A step with such a chunk."""
    rate: float = field(init=False)
    """Seconds a prompt token, without attention."""
    slowing: float = field(init=False)
    """By how much one more sequence that decodes slows prompts down here, as a share. (The first
    one: `slowed_by_first`.)"""
    harm_rate: float = field(init=False)
    """What a prompt token costs those that decode, all together, in seconds."""
    next_step: float = field(init=False)
    """What an output token of one more costs everyone, in seconds, for ranking workers."""
    steady: float = field(init=False)
    """Between tokens of those that decode, as things are."""
    missed: float | None = field(init=False, default=None, compare=False)
    """The chance that this is too long, once somebody has worked it out."""
    horizon: float = field(init=False)
    """Seconds of prompts that it should have before it: what it needs not to run dry."""

    def __post_init__(self) -> None:
        self.measured = self.curve is not None
        speed = self.speed = self.guess if self.curve is None else self.curve
        there = StepShape.decodes(self.decoding, self.context) if self.decoding else NOTHING
        self.step = speed.seconds(there)
        self.chunk = largest_chunk(speed, there, self.itl, self.most)
        self.chunk_step = self.step + speed.chunk + speed.token * self.chunk
        self.rate = self.chunk_step / self.chunk
        self.harm_rate = self.decoding * (speed.token + speed.chunk / self.chunk)
        added = self.added_step(CONTEXT)
        self.steady = self.interval(self.step)
        self.next_step = self.interval(self.step + added) + self.decoding * added
        if not self.decoding:
            self.slowing = 0.0
        elif self.chunk < self.most:
            self.slowing = added / (self.chunk_step - self.step)
        else:
            self.slowing = added / self.chunk_step
        self.horizon = max(HORIZON, self.chunk_step)

    def queue(self, now: float, work: float = math.inf) -> float:
        """Seconds until a new prompt is begun, or has lost no more: one that takes `work` shares
        steps with a longer one that is under way, which gets no more than half of them."""
        if self.head_work <= 0.0:
            if self.shared:
                return self.queued + self.chunk_step / 2
            return self.queued + (self.step / 2 if self.decoding else 0.0)
        left, overdue = self.head_until - now, OVERDUE_SHARE * self.head_work
        left = overdue if left < overdue else left
        most = self.queued + work
        most = self.chunk_step if most < self.chunk_step else most
        return self.queued + (most if most < left else left)

    def has_enough(self, now: float, work: float) -> bool:
        """Whether prompts before one that takes `work` keep it from running dry. A long one that it
        shares steps with counts as a chunk: it does not have to wait for that."""
        if not self.measured:
            return False
        left = max(self.head_until - now, OVERDUE_SHARE * self.head_work)
        if left > max(work, self.chunk_step):
            left = self.chunk_step
        return self.queued + left > self.horizon

    def prefill(self, tokens: int, cached: int) -> tuple[float, float]:
        """Seconds to compute all but the first `cached` of so many tokens, and how much of this
        those that decode lose. Behind other prompts it begins in a step that is theirs as well."""
        missing = tokens - cached if cached < tokens else 1
        speed = self.speed
        steps = -(-missing // self.chunk)
        own = (
            steps * speed.chunk
            + speed.token * missing
            + speed.pair * attention_pairs(missing, tokens - missing)
        )
        if self.head_work > 0:
            return own + missing / self.chunk * self.step, own
        return own + steps * self.step, own

    @property
    def rate_alone(self) -> float:
        """Seconds a prompt token of full steps in which nobody decodes, without attention. Never 0:
        it is divided by."""
        speed = self.speed
        return max(1e-9, (speed.base + speed.chunk) / self.most + speed.token)

    def alone(self, tokens: int, cached: int) -> float:
        """Seconds to compute all but the first `cached` of so many tokens in such steps: a measure
        of prompts that does not change with what the worker has to do."""
        missing = tokens - cached if cached < tokens else 1
        return self.rate_alone * missing + self.speed.pair * attention_pairs(
            missing, tokens - missing
        )

    def token_at_best(self, context: float, itl: float | None, most: float) -> float:
        """Seconds of the worker's time that a token takes of a sequence with this context, in the
        largest batch of such that the target allows, of at most so many."""
        speed, one = self.speed, self.added_step(context)
        if itl is not None and one > 0:
            most = min(most, (ITL_SHARE * itl - speed.base) / one)
        return speed.base / max(1.0, most) + one

    def first_token(self, queue: float, work: float) -> float:
        """Seconds until the router has it."""
        correction = self.correction
        return queue + correction.lag + correction.prefill * work

    def added_step(self, context: float) -> float:
        """What one more sequence adds to a step, in seconds."""
        return self.speed.decode + self.speed.context * context

    def slowed_by_first(self, itl: float | None) -> float:
        """By how much a sequence with this target slows prompts down, where nobody decodes yet."""
        if not self.rate:
            return 0.0
        slowing = _rate_beside_one(self.speed, itl, self.most) / self.rate - 1
        return slowing if slowing > 0 else 0.0

    def interval(self, step: float, itl: float | None = None) -> float:
        """Between tokens, where steps without prompts take `step`: prompts come in between, in
        chunks that keep to the targets there (and `itl`)."""
        stretched = step / (1 - min(MOST_PRESSURE, self.pressure))
        if itl is None or (self.itl is not None and self.itl < itl):
            itl = self.itl
        if itl is not None and stretched > ITL_SHARE * itl:
            stretched = max(step, ITL_SHARE * itl)
        return stretched * self.correction.decode


@lru_cache(maxsize=1024)
def _rate_beside_one(speed: StepCurve, itl: float | None, most: int) -> float:
    """Seconds a prompt token, where one sequence with this target decodes."""
    there = StepShape.decodes(1, CONTEXT)
    chunk = largest_chunk(speed, there, itl, most)
    return (speed.seconds(there) + speed.chunk) / chunk + speed.token


def largest_chunk(
    speed: StepCurve, beside: StepShape, itl: float | None, most: int = CHUNK
) -> int:
    """Prompt tokens of a chunk beside these decodes."""
    if itl is None or beside.decode_sequences == 0:
        return most
    return max(LEAST_CHUNK, speed.largest_chunk(ITL_SHARE * itl, beside, limit=most))

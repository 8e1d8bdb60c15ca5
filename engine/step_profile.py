"""Runs steps of chosen shapes, to see how long they take, before a worker serves. No torch here.

The blocks of the pool are written without regard to what they hold, and contexts that were never
computed are attended to: what a step costs does not depend on what it computes. Tokens are drawn
greedily; what other ways of drawing cost is learned from requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from baton.engine.batch import BatchItem
from baton.engine.core import Runner
from baton.engine.limits import SchedulerLimits
from baton.engine.sequence import Sequence
from baton.engine.step_fit import fit_steps
from baton.protocol.curves import StepShape
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens

Samples = list[tuple[StepShape, float]]


@dataclass(frozen=True, slots=True)
class Case:
    """One step: contexts of its decoding sequences, (tokens, past) of its chunks."""

    decodes: tuple[int, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()

    @property
    def shape(self) -> StepShape:
        shape = StepShape.decodes(len(self.decodes), sum(self.decodes))
        for tokens, past in self.chunks:
            shape += StepShape.chunk(tokens, past)
        return shape


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a step of this worker may hold."""

    batch_tokens: int
    running: int
    context: int
    """Tokens of one sequence, also as far as the pool holds them."""

    @classmethod
    def of(cls, limits: SchedulerLimits, num_blocks: int, block_size: int) -> Bounds:
        context = min(limits.max_model_len, num_blocks * block_size)
        return cls(
            min(limits.max_batch_tokens, context), min(limits.max_running, context), context
        )


class StepTimer:
    """`num_blocks` of `block_size` tokens: the runner's pool, which nobody uses."""

    def __init__(
        self,
        runner: Runner,
        num_blocks: int,
        block_size: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner = runner
        self._num_blocks = num_blocks
        self._block_size = block_size
        self._clock = clock

    def run(self, case: Case) -> float:
        """Seconds of one such step, with its tokens drawn on the host."""
        batch = self._batch(case)
        started = self._clock()
        self._runner.step(batch)
        return self._clock() - started

    def _batch(self, case: Case) -> list[BatchItem]:
        batch = []
        first_block = 0
        wanted = [(1, context - 1) for context in case.decodes] + list(case.chunks)
        for tokens, past in wanted:
            seq = _sequence(past + tokens, past)
            count = -(-(past + tokens) // self._block_size)
            # Sequences share blocks only when the pool is too small for all of them.
            seq.block_ids = [(first_block + i) % self._num_blocks for i in range(count)]
            first_block += count
            batch.append(BatchItem(seq, tokens, sample=True))
        return batch


def self_profile(
    timer: StepTimer,
    bounds: Bounds,
    budget: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Samples:
    """What can be learned in about `budget` seconds, the most telling steps first. Each runs
    twice and the second counts, for kernels are compiled in the first. Steps that would take
    longer than what is left are skipped."""
    started = clock()
    samples: Samples = []
    for case in _telling_cases(bounds):
        left = budget - (clock() - started)
        if left <= 0:
            break
        if len(samples) >= 2 and 2 * fit_steps(samples).seconds(case.shape) > left:
            continue
        timer.run(case)
        samples.append((case.shape, timer.run(case)))
    return samples


def _telling_cases(bounds: Bounds) -> Iterator[Case]:
    few, many = max(1, bounds.running // 8), max(1, bounds.running // 2)
    short, long = min(64, bounds.context), min(1024, bounds.context)
    tokens = bounds.batch_tokens

    def chunk(size: int, past: int = 0) -> Case:
        size = max(1, min(size, bounds.context))
        return Case(chunks=((size, min(past, bounds.context - size)),))

    yield Case(decodes=(short,))
    yield chunk(tokens // 16)
    yield Case(decodes=(short,) * few)
    yield Case(decodes=(long,) * few)
    yield chunk(tokens // 4)
    yield chunk(tokens // 8, long)
    yield Case(decodes=(short,) * (few // 2 + 1), chunks=chunk(tokens // 8).chunks)
    yield Case(decodes=(long // 2 + 1,) * many)
    yield chunk(tokens // 2)
    yield chunk(tokens)
    yield chunk(tokens // 2, 2 * long)


def random_case(rng: Random, bounds: Bounds) -> Case:
    """Decodes, chunks or both, of sizes and contexts spread evenly over their logarithms."""
    kind = rng.choice(("decodes", "chunks", "both"))
    decodes: tuple[int, ...] = ()
    chunks: list[tuple[int, int]] = []
    budget = bounds.batch_tokens
    if kind != "chunks":
        around = _spread(rng, min(16, bounds.context), bounds.context)
        decodes = tuple(
            max(1, min(bounds.context, int(around * rng.uniform(0.5, 1.5))))
            for _ in range(min(_spread(rng, 1, bounds.running), max(1, budget - 2)))
        )
        budget -= len(decodes)
    if kind != "decodes":
        for _ in range(rng.choice((1, 1, 1, 2))):
            if budget < 2:
                break
            tokens = _spread(rng, 2, budget)
            past = rng.choice((0, _spread(rng, 1, bounds.context)))
            chunks.append((tokens, min(past, bounds.context - tokens)))
            budget -= tokens
    return Case(decodes, tuple(chunks))


def _spread(rng: Random, low: int, high: int) -> int:
    return min(high, int(low * (high / low) ** rng.random() + 0.5)) if high > low else low


def _sequence(length: int, computed: int) -> Sequence:
    request = Request(
        key=RequestKey("profile", 0),
        choice=0,
        prompt=pack_tokens([0] * length),
        sampling=SamplingParams(seed=0, max_tokens=1, temperature=0.0),
    )
    seq = Sequence.from_request(request, hold=False)
    seq.num_computed = computed
    return seq

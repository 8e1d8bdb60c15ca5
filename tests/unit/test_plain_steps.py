"""Many plain steps at once leave the scheduler as single ones do, to the number of each block."""

from __future__ import annotations

from random import Random

import pytest
from make_request import make_request

from baton.engine.batch import BatchItem, StepResult
from baton.engine.block_pool import BlockPool
from baton.engine.commands import Release, Start
from baton.engine.limits import SchedulerLimits
from baton.engine.scheduler import Scheduler
from baton.protocol.ids import RequestKey

BLOCK = 4
LIMITS = SchedulerLimits(max_model_len=60, max_running=8, max_batch_tokens=64, prefill_chunk=64)


def token(key: RequestKey, position: int) -> int:
    return 1000 + (ord(key.request_id[-1]) * 77 + position * 31) % 1000


class Side:
    def __init__(self, num_blocks: int) -> None:
        self.scheduler = Scheduler(BlockPool(num_blocks, []), LIMITS, block_size=BLOCK)
        self.now = 0.0

    def schedule(self) -> list[BatchItem]:
        self.now += 1.0
        return self.scheduler.schedule(self.now)

    def step(self, batch: list[BatchItem]) -> None:
        tokens = [token(i.seq.key, i.seq.num_output) if i.sample else None for i in batch]
        nothing = [None] * len(batch)
        self.scheduler.complete(batch, StepResult(tokens, [*nothing], [*nothing]), self.now)

    def ahead(self, batch: list[BatchItem], steps: int, *, goes_on: bool) -> None:
        tokens = [
            [token(item.seq.key, item.seq.num_output + n) for n in range(steps)] for item in batch
        ]
        self.scheduler.complete_plain(batch, tokens, goes_on=goes_on)
        self.now += steps - (not goes_on)

    def state(self, batch: list[BatchItem]) -> list[object]:
        self.scheduler.check_integrity()
        return [
            self.scheduler.load(),
            self.scheduler.take_cache_changes(),
            [(i.seq.key, i.seq.tokens, i.seq.block_ids, i.seq.num_computed, i.seq.num_named,
              i.seq.block_hashes) for i in batch],
        ]


def requests(rng: Random) -> list[Start]:
    shared = [rng.randrange(50) for _ in range(12)]
    return [
        Start(make_request(
            f"r{n}", shared[: rng.randrange(13)] + [n] * rng.randrange(1, 9),
            max_tokens=rng.randrange(2, 40),
        ), hold=False)
        for n in range(rng.randrange(1, 6))
    ]


@pytest.mark.parametrize("seed", range(40))
def test_many_at_once_are_as_many_single_ones(seed: int) -> None:
    rng = Random(seed)
    num_blocks = rng.choice([24, 40, 80])  # with the fewest, cached blocks are evicted on the way
    one, many = Side(num_blocks), Side(num_blocks)
    taken = 0
    for _ in range(6):
        for start in requests(rng):
            for side in (one, many):
                side.scheduler.apply(start, side.now)
        for _ in range(4):
            batch, other = one.schedule(), many.schedule()
            assert [i.seq.key for i in batch] == [i.seq.key for i in other]
            steps, _ = many.scheduler.plain_steps(other, 50)
            if steps:
                steps = rng.randrange(1, steps + 1)
                goes_on = rng.random() < 0.5 and steps < many.scheduler.plain_steps(other, 50)[0]
                for left in reversed(range(steps)):
                    assert one.scheduler.preemptions == many.scheduler.preemptions
                    one.step(batch)
                    if left or goes_on:
                        batch = one.schedule()
                many.ahead(other, steps, goes_on=goes_on)
                taken += steps
                assert one.state(batch) == many.state(other)
                if not goes_on:
                    continue
            one.step(batch)
            many.step(other)
            assert one.state(batch) == many.state(other)
        for side in (one, many):
            for n in range(6):
                side.scheduler.apply(Release(RequestKey(f"r{n}", 1)), side.now)
    assert taken > 5


def test_what_else_would_happen_ends_them() -> None:
    side = Side(40)
    side.scheduler.apply(Start(make_request("a", [1] * 5, max_tokens=9), hold=False), 0.0)
    first = side.schedule()
    assert side.scheduler.plain_steps(first, 50)[0] == 0  # a prompt
    side.step(first)
    # Of nine tokens one is there, and the last one ends it.
    batch = side.schedule()
    assert side.scheduler.plain_steps(batch, 50)[0] == 7
    assert side.scheduler.plain_steps(batch, 3)[0] == 3
    side.ahead(batch, 7, goes_on=False)
    last = side.schedule()
    assert side.scheduler.plain_steps(last, 50)[0] == 0
    side.step(last)
    assert side.scheduler.load().running == 0

    side.scheduler.apply(Start(make_request("b", [2] * 5, max_tokens=99), hold=False), 0.0)
    side.step(side.schedule())
    # The context holds 60 tokens, of which the last one ends it: "b" has six now.
    assert side.scheduler.plain_steps(side.schedule(), 99)[0] == 60 - 1 - 6


def test_a_full_pool_ends_them_before_somebody_is_preempted() -> None:
    side = Side(6)
    for name in "ab":
        side.scheduler.apply(Start(make_request(name, [ord(name)] * 3, max_tokens=30), False), 0.0)
    side.step(side.schedule())
    taken = 0
    while steps := side.scheduler.plain_steps(batch := side.schedule(), 50)[0]:
        side.ahead(batch, steps, goes_on=False)
        taken += steps
        assert side.scheduler.preemptions == 0
    assert taken >= 6


def test_after_so_many_steps_the_cache_changes() -> None:
    side = Side(40)
    side.scheduler.apply(Start(make_request("a", [1] * 5, max_tokens=30), hold=False), 0.0)
    side.step(side.schedule())
    side.scheduler.take_cache_changes()
    batch = side.schedule()
    steps = side.scheduler.steps_to_cache_change(batch)
    assert steps == 3  # five tokens are computed, the block is full with eight
    side.ahead(batch, steps - 1, goes_on=True)
    assert side.scheduler.take_cache_changes() == ()
    side.ahead(batch, 1, goes_on=True)
    assert len(side.scheduler.take_cache_changes()) == 1

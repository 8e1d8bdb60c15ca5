"""The division of workers, against brute force and against what must hold whatever the numbers."""

from __future__ import annotations

import itertools
import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.protocol.curves import StepCurve
from baton.router.planner.phases import Kind
from baton.router.planner.split import Fleet, Group, Split
from baton.router.planner.workload import Item, Workload

CURVE = StepCurve(
    base=0.018, chunk=0.0, token=1e-4, pair=1.4e-8, decode=4e-5, context=6.3e-7, spread=0.0, steps=0
)
KIND = Kind(CURVE, 400_000, 256)
READING = (Item(4000, 0, 20, 3.0, 0.05),)
WRITING = (Item(200, 0, 600, 1.0, 0.05),)


def fleet(items: tuple[Item, ...], rate: float, workers: int = 8, kind: Kind = KIND) -> Fleet:
    return Fleet([Group(kind, workers)], Workload(rate, items))


def test_all_splits_and_no_others() -> None:
    splits = list(fleet(READING, 1.0, 8).splits())
    brute = [
        Split(p, d, m)
        for p, d, m in itertools.product(range(9), repeat=3)
        if p + d + m == 8 and (m or (p and d))
    ]
    assert sorted(splits) == sorted(brute)
    assert list(fleet(READING, 1.0, 1).splits()) == [Split(0, 0, 1)]
    assert Split(2, 5, 1).moves_from(Split(4, 4, 0)) == 2
    assert Split(1, 1, 0).moves_from(Split(0, 0, 2)) == 2
    assert str(Split(2, 0, 1)) == "2 prefill + 1 mixed"


def test_the_work_decides_who_does_it() -> None:
    """At eight tenths of what the best can carry."""
    for items, wanted in ((READING, "prefill"), (WRITING, "decode")):
        pool = fleet(items, 1.0)
        most = max(pool.capacity(split)[0] for split in pool.splits() if not split.mixed)
        best = fleet(items, 0.8 * most).best()[0]
        assert best.goodput > 0.85
        assert getattr(best.split, wanted) > 4 or best.split.mixed > 4, best
        assert best.split.serves


def test_the_best_is_best_of_all() -> None:
    """The search stops early; nothing that it left out is better."""
    rng = random.Random(7)
    for _ in range(12):
        items = tuple(
            Item(rng.randint(50, 4000), 0, rng.randint(2, 400), rng.choice((0.3, 1.0, 5.0)), 0.05)
            for _ in range(30)
        )
        pool = fleet(items, rng.uniform(2, 40), rng.randint(1, 7))
        best = pool.best()[0]
        brute = max(pool.forecast(split).goodput for split in pool.splits())
        assert best.goodput >= brute - 1.5e-3


def test_capacity_is_what_a_division_of_time_allows() -> None:
    """Against a search over the shares of work that mixed workers take."""
    pool = fleet((Item(1000, 0, 100, 1.0, 0.05),), 1.0, 9)
    model = pool._models[0]
    for split in pool.splits():
        most, to_prefill, to_decode, _ = pool.capacity(split)
        assert 0 <= to_prefill <= 1
        assert 0 <= to_decode <= 1
        assert to_prefill * most <= split.prefill * model.prefill_rate * (1 + 1e-9)
        assert to_decode * most <= split.decode * model.decode_rate * (1 + 1e-9)
        used = (1 - to_prefill) * most / model.mixed_prefill_rate
        used += (1 - to_decode) * most / model.decode_rate
        assert used <= split.mixed * (1 + 1e-9)
        # A little more does not fit, however it is divided.
        more = most * 1.001
        fits = [
            (x, y)
            for x, y in itertools.product([i / 200 for i in range(201)], repeat=2)
            if x * more <= split.prefill * model.prefill_rate
            and y * more <= split.decode * model.decode_rate
            and (1 - x) * more / model.mixed_prefill_rate + (1 - y) * more / model.decode_rate
            <= split.mixed
        ]
        assert not fits, split


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.integers(1, 20_000),
    output=st.integers(1, 2000),
    ttft=st.sampled_from([0.05, 0.5, 5.0, math.inf]),
    itl=st.sampled_from([0.001, 0.02, 0.05, math.inf]),
    rate=st.floats(0.0, 500.0),
    workers=st.integers(1, 6),
    burst=st.floats(0.25, 20.0),
)
def test_forecasts_are_shares_and_fall_with_the_load(
    prompt: int, output: int, ttft: float, itl: float, rate: float, workers: int, burst: float
) -> None:
    work = Workload(rate, (Item(prompt, 0, output, ttft, itl),), burst)
    pool = Fleet([Group(KIND, workers)], work)
    for split in pool.splits():
        one, two = pool.forecast(split), pool.forecast(split, 2 * rate)
        for got in (one, two):
            assert 0 <= got.goodput <= 1
            assert not math.isnan(got.ttft)
            assert not math.isnan(got.itl)
        assert two.goodput <= one.goodput + 0.02
        assert one.goodput <= min(1.0, one.capacity / rate if rate else 1.0) + 1e-9


def test_under_overload_splits_still_compare() -> None:
    pool = fleet(READING, 200.0)
    best, worst = pool.forecast(Split(7, 1, 0)), pool.forecast(Split(1, 7, 0))
    assert 0 < worst.goodput < best.goodput / 3 < 0.3


def test_two_workers_are_told_when_not_to_disaggregate() -> None:
    """A loose inter-token target: both do both. A tight one with long prompts: one reads."""
    loose = (Item(800, 0, 200, 1.5, 0.3),)
    pool = fleet(loose, 9.0, 2)
    assert pool.best()[0].split.mixed > 0
    apart, together = pool.forecast(Split(1, 1, 0)), pool.forecast(Split(0, 0, 2))
    assert together.goodput > 1.2 * apart.goodput
    assert apart.binds == "decode"
    tight = (Item(3000, 0, 60, 1.2, 0.024),)
    best = fleet(tight, 1.6, 2).best()[0]
    assert best.split == Split(1, 1, 0)
    assert best.goodput > 1.05 * fleet(tight, 1.6, 2).forecast(Split(0, 0, 2)).goodput


def test_what_binds() -> None:
    pool = fleet(WRITING, 10.0)
    assert pool.capacity(Split(7, 1, 0))[3] == "decode"
    pool = fleet(READING, 10.0)
    assert pool.capacity(Split(1, 7, 0))[3] == "prefill"
    assert pool.capacity(Split(0, 0, 8))[3] == "all"


def test_the_relatively_fastest_readers_read() -> None:
    """One kind is twice as fast at everything, another four times at prompts only."""
    reader = Kind(msgspec.structs.replace(CURVE, token=2.5e-5, pair=3.5e-9), 400_000, 256)
    fast = Kind(CURVE.scaled(0.5), 400_000, 256)
    pool = Fleet([Group(fast, 2), Group(reader, 2)], Workload(5.0, READING))
    counts = pool.kinds_of(Split(2, 2, 0))
    assert counts == [
        {"prefill": 0, "decode": 2, "mixed": 0}, {"prefill": 2, "decode": 0, "mixed": 0}
    ]
    other = Fleet([Group(reader, 2), Group(fast, 2)], Workload(5.0, READING))
    for split in pool.splits():
        assert pool.forecast(split).goodput == pytest.approx(other.forecast(split).goodput)


def test_unlike_workers_in_one_pool_add_up() -> None:
    slow = Kind(CURVE.scaled(2.0), 400_000, 256)
    work = Workload(1.0, READING)
    both = Fleet([Group(KIND, 1), Group(slow, 3)], work)
    one, other = Fleet([Group(KIND, 1)], work), Fleet([Group(slow, 3)], work)
    total = both.capacity(Split(0, 0, 4))[0]
    assert total == pytest.approx(
        one.capacity(Split(0, 0, 1))[0] + other.capacity(Split(0, 0, 3))[0], rel=0.05
    )
    pool = both._pool("prefill", 0, 4)
    assert 4 * pool.prefill_rate == pytest.approx(
        one._models[0].prefill_rate + 3 * other._models[0].prefill_rate
    )


def test_limits_on_moves() -> None:
    pool = fleet(WRITING, 8.0)
    start = Split(6, 2, 0)
    near = pool.best(limit=2, start=start)
    assert all(found.split.moves_from(start) <= 2 for found in near)
    assert near[0].goodput <= pool.best()[0].goodput + 1.5e-3

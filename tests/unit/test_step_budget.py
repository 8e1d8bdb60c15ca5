"""How large chunks are beside decodes that have an inter-token target."""

from __future__ import annotations

import math

import msgspec
import pytest
from engine_driver import BLOCK, Driver
from fake_runner import undisturbed
from hypothesis import given
from hypothesis import strategies as st
from make_request import make_request

from baton.engine.commands import UseCurve
from baton.engine.limits import SchedulerLimits
from baton.engine.step_budget import DEVIATIONS, MOST, SPENT, STAND_BACK, StepBudgets
from baton.protocol.curves import StepCurve, StepShape
from baton.protocol.records import Request

LIMITS = SchedulerLimits(max_model_len=4096, max_batch_tokens=512, prefill_chunk=256)
CURVE = StepCurve(
    base=0.010, chunk=0.002, token=0.0001, pair=1e-7, decode=0.001, context=1e-6, spread=0.05,
    steps=100)


def curve(**changed: float) -> StepCurve:
    values = {name: getattr(CURVE, name) for name in CURVE.__struct_fields__} | changed
    return StepCurve(**values)  # type: ignore[arg-type]


def driver_with(*running: Request, role: str = "mixed", use: StepCurve | None = CURVE) -> Driver:
    """These decode already."""
    driver = Driver(num_blocks=256, role=role, max_model_len=900, max_batch_tokens=256,
                    prefill_chunk=256)
    if use is not None:
        driver.apply(UseCurve(use))
    for request in running:
        driver.start(request)
        driver.step()
    return driver


def sizes(driver: Driver) -> list[int]:
    return [item.num_tokens for item in driver.step()]


def short(name: str = "a", **options: float | None) -> Request:
    return make_request(name, [ord(name)] * 3, max_tokens=100, **options)  # type: ignore[arg-type]


LONG = list(range(700))


def test_a_chunk_takes_what_the_tightest_target_leaves() -> None:
    driver = driver_with(short("a", itl=0.1), short("b", itl=0.03), short("c"))
    driver.start(make_request("long", LONG))
    chunk = sizes(driver)[-1]
    shape = StepShape.decodes(3, 3 + 4 + 5 + 3)
    allowed = 0.03 * math.exp(-DEVIATIONS * CURVE.spread)
    assert CURVE.seconds(shape + StepShape.chunk(chunk)) <= allowed
    assert CURVE.seconds(shape + StepShape.chunk(chunk + BLOCK)) > allowed
    assert chunk > BLOCK


@pytest.mark.parametrize("role", ["prefill", "decode", "mixed"])
def test_the_role_does_not_matter_where_there_is_a_target(role: str) -> None:
    driver = driver_with(short(itl=0.03), role=role)
    driver.start(make_request("long", LONG))
    assert sizes(driver) == [1, 148]


@pytest.mark.parametrize("missing", ["target", "firm", "curve"])
def test_without_firm_target_or_curve_the_role_divides_the_step(missing: str) -> None:
    running = short(itl=None if missing == "target" else 0.02)
    if missing == "firm":
        loose = msgspec.structs.replace(running.targets, firm=False)
        running = msgspec.structs.replace(running, targets=loose)
    driver = driver_with(running, use=None if missing == "curve" else CURVE)
    driver.start(make_request("long", LONG))
    assert sizes(driver) == [1, 128]


def test_without_decodes_nothing_is_held_back() -> None:
    driver = driver_with()
    driver.start(make_request("long", LONG, itl=0.001))
    assert sizes(driver) == [256]


def test_the_chunk_follows_the_decodes_step_by_step() -> None:
    driver = driver_with(short("a", itl=0.03))
    driver.start(make_request("long", LONG))
    alone = sizes(driver)[-1]
    arriving = short("b", itl=0.02)
    driver.reserve(arriving)
    driver.deliver(arriving.key)
    driver.admit(arriving.key, tuple(undisturbed([ord("b")] * 3, 1)))
    beside = sizes(driver)
    assert len(beside) == 3
    assert BLOCK < beside[-1] < alone
    driver.release(arriving.key)
    assert beside[-1] < sizes(driver)[-1] <= alone


def ten_tokens(driver: Driver, apart: float) -> float:
    """Returns when the tenth is there. (The driver's own steps take a second.)"""
    begun = driver.now
    for step in range(1, 11):
        driver.now = begun + step * apart
        driver.step()
    return begun + 10 * apart


@pytest.mark.parametrize("handed_over", [False, True])
def test_what_streams_are_ahead_may_be_spent_in_parts(handed_over: bool) -> None:
    """Ten tokens 15 ms apart where 20 are wanted: 50 ms ahead, a step of 30 ms is fine."""
    driver = driver_with() if handed_over else driver_with(short(itl=0.02))
    if handed_over:
        request = short(itl=0.02)
        driver.reserve(request)
        driver.deliver(request.key)
        driver.admit(request.key, tuple(undisturbed([ord("a")] * 3, 1)))
    at = ten_tokens(driver, 0.015)
    driver.start(make_request("long", LONG))
    pace = 0.02 * math.exp(-DEVIATIONS * CURVE.spread)
    ahead, past, chunks = 10 * 0.005, 0, []
    while ahead >= 0.01:
        driver.now = at
        chunk = sizes(driver)[-1]
        allowed = pace + min(SPENT * ahead, MOST * 0.02)
        step = StepShape.decodes(1, 14 + len(chunks))
        assert CURVE.seconds(step + StepShape.chunk(chunk, past)) <= allowed
        assert CURVE.seconds(step + StepShape.chunk(chunk + BLOCK, past)) > allowed
        at += 0.03
        ahead -= 0.01
        past += chunk
        chunks.append(chunk)
    assert chunks == sorted(chunks, reverse=True)
    assert chunks[0] > 1.3 * chunks[-1]


def test_a_stream_that_is_behind_is_not_made_to_catch_up_by_others() -> None:
    """Nor does one that is ahead lend to it: chunks are as if neither had a past."""
    driver = driver_with(short("a", itl=0.03))
    driver.now = ten_tokens(driver, 0.02)
    driver.start(short("b", itl=0.03))
    driver.step()
    driver.now += 1.0
    driver.start(make_request("long", LONG))
    late = sizes(driver)[-1]
    fresh = driver_with(short("a", itl=0.03), short("b", itl=0.03))
    fresh.start(make_request("long", LONG))
    assert abs(late - sizes(fresh)[-1]) <= BLOCK


def test_later_chunks_of_a_prompt_are_smaller_as_they_attend_to_more() -> None:
    driver = driver_with(short(itl=0.03), use=curve(pair=2e-6))
    driver.start(make_request("long", LONG))
    chunks = [sizes(driver)[-1] for _ in range(6)]
    assert chunks == sorted(chunks, reverse=True)
    assert chunks[0] > chunks[-1] >= BLOCK


def test_several_prompts_share_one_budget() -> None:
    driver = driver_with(short(itl=0.03))
    for name in "bcd":
        driver.start(make_request(name, [ord(name)] * 50))
    batch = driver.scheduler.schedule(driver.now)
    shape = StepShape.decodes(1, 4)
    for item in batch[1:]:
        shape += StepShape.chunk(item.num_tokens)
    assert [item.num_tokens for item in batch] == [1, 50, 50, 16]
    assert CURVE.seconds(shape) <= 0.03


def test_spread_leaves_room_but_not_all_of_it() -> None:
    tokens = []
    for spread in (0.01, 0.5, 2.0, 4.0):
        budgets = StepBudgets(LIMITS, 16)
        budgets.curve = curve(spread=spread)
        tokens.append(budgets.beside(StepShape.decodes(1, 100), 0.04).chunk(0, 1000))
    assert tokens[0] > tokens[1] > tokens[2] == tokens[3] > 0


def test_prompts_do_not_starve_where_decodes_alone_exceed_the_target() -> None:
    driver = driver_with(short(itl=0.001))
    driver.start(make_request("long", LONG[:100], max_tokens=1))
    steps = [sizes(driver) for _ in range(3 * STAND_BACK)]
    floor = STAND_BACK * BLOCK
    assert steps == ([[1]] * (STAND_BACK - 1) + [[1, floor]]) * 3


@pytest.mark.parametrize(("chunk", "blocks"), [(0.0, 1), (0.0007, 2), (0.002, 4), (1.0, 4)])
def test_fewer_larger_chunks_where_a_chunk_costs_more_than_its_tokens(
    chunk: float, blocks: int
) -> None:
    """A block of tokens takes 0.4 ms."""
    driver = driver_with(short(itl=0.001), use=curve(chunk=chunk))
    driver.start(make_request("long", LONG[:100], max_tokens=1))
    steps = [sizes(driver) for _ in range(2 * blocks)]
    assert steps == ([[1]] * (blocks - 1) + [[1, blocks * BLOCK]]) * 2


def test_too_little_for_a_block_is_kept_for_later() -> None:
    """A chunk costs 2 ms, so one of a token or two would be mostly that."""
    driver = driver_with(short(itl=0.0133), use=curve(spread=0.0))
    driver.start(make_request("long", LONG[:100], max_tokens=1))
    assert CURVE.largest_chunk(0.0133, StepShape.decodes(1, 4), limit=100) in range(1, BLOCK)
    assert sizes(driver) == [1]


def test_who_waits_for_time_holds_no_blocks() -> None:
    driver = driver_with(short(itl=0.001))
    driver.start(make_request("long", LONG[:100]))
    active = driver.counts().active
    driver.step()
    assert driver.counts().active == active


@given(
    itl=st.floats(0.001, 0.2), decodes=st.integers(1, 60), context=st.integers(1, 5000),
    past=st.integers(0, 50).map(lambda blocks: blocks * 16), left=st.integers(1, 3000),
)
def test_a_step_keeps_its_budget(
    itl: float, decodes: int, context: int, past: int, left: int
) -> None:
    budgets = StepBudgets(LIMITS, 16)
    budgets.curve = costly = curve(chunk=0.02)  # so that there is no minimum at once
    shape = StepShape.decodes(decodes, decodes * context)
    budget = budgets.beside(shape, itl)
    tokens = 0
    while chunk := budget.chunk(past + tokens, left - tokens):
        budget.spend(past + tokens, chunk)
        shape += StepShape.chunk(chunk, past + tokens)
        tokens += chunk
        assert costly.seconds(shape) <= itl
        assert (past + tokens) % 16 == 0 or tokens == left
    assert tokens + decodes <= LIMITS.max_batch_tokens
    assert budget.spent == (tokens > 0)


def test_the_minimum_is_not_divided() -> None:
    """Or the shorter ones behind a long prompt would have all of it."""
    driver = driver_with(short(itl=0.001))
    driver.start(make_request("long", LONG[:400], max_tokens=1, due_in=30.0))
    for name in "bc":
        driver.start(make_request(name, [ord(name)] * 60, max_tokens=1, due_in=40.0))
    chunks = [
        (item.seq.key.request_id, item.num_tokens)
        for _ in range(8) for item in driver.step() if item.num_tokens > 1
    ]
    assert chunks == [("long", STAND_BACK * BLOCK)] * 2

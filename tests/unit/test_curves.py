"""Curves: what a step is predicted to take, and the same question asked backwards."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.protocol.curves import (
    NOTHING,
    LinkCurve,
    StepCurve,
    StepShape,
    attention_pairs,
)

CURVE = StepCurve(
    base=0.01, chunk=0.003, token=4e-4, pair=3e-7, decode=5e-4, context=2e-6, spread=0.1, steps=9
)

coefficient = st.floats(0, 1e-2, allow_subnormal=False)
curves = st.builds(
    StepCurve,
    base=coefficient,
    chunk=coefficient,
    token=coefficient,
    pair=st.floats(0, 1e-5, allow_subnormal=False),
    decode=coefficient,
    context=st.floats(0, 1e-5, allow_subnormal=False),
    spread=st.just(0.1),
    steps=st.just(1),
)
besides = st.builds(
    StepShape.decodes, sequences=st.integers(0, 64), context=st.integers(0, 100_000)
)


def test_pairs_are_counted_token_by_token() -> None:
    for past in (0, 1, 7, 100):
        for tokens in (0, 1, 2, 33):
            one_by_one = sum(past + position + 1 for position in range(tokens))
            assert attention_pairs(tokens, past) == one_by_one


def test_a_step_costs_the_sum_of_what_it_holds() -> None:
    shape = StepShape.chunk(100, past=50) + StepShape.decodes(4, 1200)
    by_hand = 0.01 + 0.003 + 100 * 4e-4 + attention_pairs(100, 50) * 3e-7 + 4 * 5e-4 + 1200 * 2e-6
    assert CURVE.seconds(shape) == pytest.approx(by_hand)
    assert CURVE.seconds(NOTHING) == 0.01
    dotted = sum(a * b for a, b in zip(CURVE.coefficients, shape.features, strict=True))
    assert dotted == pytest.approx(by_hand)


@given(
    curve=curves,
    beside=besides,
    past=st.integers(0, 50_000),
    limit=st.integers(1, 20_000),
    budget=st.floats(0, 5),
)
def test_the_largest_chunk_fits_and_one_more_token_does_not(
    curve: StepCurve, beside: StepShape, past: int, limit: int, budget: float
) -> None:
    found = curve.largest_chunk(budget, beside, past=past, limit=limit)
    slack = 1e-9 * (1 + budget)
    assert 0 <= found <= limit
    if found:
        assert curve.seconds(beside + StepShape.chunk(found, past)) <= budget + slack
    if found < limit:
        assert curve.seconds(beside + StepShape.chunk(found + 1, past)) >= budget - slack


@given(
    curve=curves,
    beside=besides,
    tokens=st.integers(0, 3000),
    cached=st.integers(0, 3000),
    chunk=st.integers(1, 700),
)
def test_a_prompt_costs_the_sum_of_its_chunks(
    curve: StepCurve, beside: StepShape, tokens: int, cached: int, chunk: int
) -> None:
    total, done = 0.0, cached
    while done < tokens:
        size = min(chunk, tokens - done)
        total += curve.seconds(beside + StepShape.chunk(size, done))
        done += size
    assert curve.prefill_seconds(tokens, cached, chunk, beside) == pytest.approx(total)


def test_intervals_widen_with_the_spread_and_with_what_is_not_known() -> None:
    shape = StepShape.chunk(100)
    low, high = CURVE.interval(shape)
    assert low < CURVE.seconds(shape) < high
    assert high / CURVE.seconds(shape) == pytest.approx(CURVE.seconds(shape) / low)
    wider = msgspec.structs.replace(CURVE, spread=0.2).interval(shape)
    assert wider[0] < low
    assert wider[1] > high

    # Only the cost of a prompt's token is uncertain.
    uncertain = [0.0] * 21
    uncertain[11] = (4e-4 * 0.5) ** 2
    vague = msgspec.structs.replace(CURVE, covariance=tuple(uncertain))
    assert vague.interval(shape)[1] > high
    assert vague.interval(StepShape.decodes(2, 100)) == CURVE.interval(StepShape.decodes(2, 100))


def test_scaling_scales_predictions_and_keeps_relative_intervals() -> None:
    slow = CURVE.scaled(2)
    shape = StepShape.chunk(64, 64) + StepShape.decodes(3, 900)
    assert slow.seconds(shape) == pytest.approx(2 * CURVE.seconds(shape))
    assert slow.interval(shape)[1] == pytest.approx(2 * CURVE.interval(shape)[1])


def test_a_link_takes_its_latency_and_then_its_bandwidth() -> None:
    link = LinkCurve(latency=1e-3, byte=1e-9, spread=0.1, transfers=5)
    assert link.bandwidth == pytest.approx(1e9)
    assert link.seconds(1_000_000) == pytest.approx(2e-3)
    assert link.seconds(link.largest_transfer(5e-3)) == pytest.approx(5e-3)
    assert link.largest_transfer(0.5e-3) == 0
    low, high = link.interval(1_000_000)
    assert low < 2e-3 < high


def test_a_curve_survives_the_wire() -> None:
    curve = msgspec.structs.replace(CURVE, covariance=tuple(float(i) for i in range(21)))
    plain = msgspec.to_builtins(curve)
    assert isinstance(plain, list)
    assert msgspec.convert(plain, StepCurve) == curve


@pytest.mark.parametrize("bad", [-1e-9, math.nan, "fast"])
def test_a_curve_that_cannot_be_is_refused_on_arrival(bad: object) -> None:
    for place in range(7):
        plain = msgspec.to_builtins(CURVE)
        plain[place] = bad
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(plain, StepCurve)

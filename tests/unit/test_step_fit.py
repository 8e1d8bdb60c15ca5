"""Fitting step curves: known curves come back from noisy steps, whatever comes in between."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.engine.step_fit import StepFit, fit_steps
from baton.protocol.curves import NOTHING, StepCurve, StepShape

TRUTH = StepCurve(
    base=0.01, chunk=0.003, token=4e-4, pair=3e-7, decode=5e-4, context=2e-6, spread=0.08, steps=0
)
GPU = StepCurve(
    base=6e-3, chunk=2e-4, token=1.5e-5, pair=2e-10, decode=1e-5, context=1e-8, spread=0.05, steps=0
)


def decode_step(rng: random.Random) -> StepShape:
    sequences = int(2 ** rng.uniform(0, 5))
    return StepShape.decodes(sequences, sequences * int(2 ** rng.uniform(5, 11)))


def prefill_step(rng: random.Random) -> StepShape:
    past = rng.choice([0, int(2 ** rng.uniform(5, 11))])
    return StepShape.chunk(int(2 ** rng.uniform(3, 9)), past)


def any_step(rng: random.Random) -> StepShape:
    kind = rng.randrange(3)
    shape = decode_step(rng) if kind else NOTHING
    return shape + prefill_step(rng) if kind != 1 else shape


def noisy(rng: random.Random, seconds: float, *, outliers: float = 0.05) -> float:
    """8 % of noise, and now and then 10 to 100 times as long."""
    if rng.random() < outliers:
        return seconds * rng.uniform(10, 100)
    return seconds * math.exp(rng.gauss(0, 0.08))


def feed(
    fit: StepFit,
    truth: StepCurve,
    rng: random.Random,
    steps: int,
    kind: Callable[[random.Random], StepShape] = any_step,
) -> None:
    for _ in range(steps):
        shape = kind(rng)
        fit.observe(shape, noisy(rng, truth.seconds(shape)))


def errors(
    curve: StepCurve, truth: StepCurve, kind: Callable[[random.Random], StepShape] = any_step
) -> list[float]:
    """Relative, sorted, of the curve against the true one."""
    rng = random.Random(99)
    shapes = [kind(rng) for _ in range(300)]
    return sorted(abs(curve.seconds(shape) / truth.seconds(shape) - 1) for shape in shapes)


def median_error(
    fit: StepFit, truth: StepCurve, kind: Callable[[random.Random], StepShape] = any_step
) -> float:
    return statistics.median(errors(fit.curve(), truth, kind))


@pytest.mark.parametrize("truth", [TRUTH, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("seed", range(6))
def test_a_known_curve_comes_back_from_steps_with_gross_outliers(
    truth: StepCurve, seed: int
) -> None:
    fit = StepFit()
    feed(fit, truth, random.Random(seed), 400)
    found = errors(fit.curve(), truth)
    assert statistics.median(found) < 0.03
    assert found[270] < 0.08
    assert 0.05 < fit.curve().spread < 0.13
    assert fit.curve().steps == 400


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    base=st.floats(1e-4, 0.05),
    shares=st.tuples(*[st.floats(0.2, 5)] * 5),
)
def test_any_plausible_curve_comes_back(
    seed: int, base: float, shares: tuple[float, ...]
) -> None:
    usual = (0.1, 0.02, 2e-5, 0.04, 1e-4)
    chunk, token, pair, decode, context = (
        base * share * part for share, part in zip(shares, usual, strict=True)
    )
    truth = StepCurve(base=base, chunk=chunk, token=token, pair=pair, decode=decode,
                      context=context, spread=0.08, steps=0)
    fit = StepFit()
    feed(fit, truth, random.Random(seed), 400)
    assert median_error(fit, truth) < 0.05
    assert all(value >= 0 for value in fit.curve().coefficients)


@pytest.mark.parametrize("seed", range(4))
def test_an_outlier_as_the_very_first_step_is_overcome(seed: int) -> None:
    rng = random.Random(seed)
    fit = StepFit()
    first = any_step(rng)
    fit.observe(first, 100 * TRUTH.seconds(first))
    feed(fit, TRUTH, rng, 7)
    assert median_error(fit, TRUTH) < 0.5
    feed(fit, TRUTH, rng, 33)
    assert median_error(fit, TRUTH) < 0.12


@pytest.mark.parametrize("factor", [2.0, 0.5, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_machine_that_changes_speed_is_followed_within_twenty_steps(
    seed: int, factor: float
) -> None:
    rng = random.Random(seed)
    fit = StepFit()
    feed(fit, TRUTH, rng, 500)
    feed(fit, TRUTH.scaled(factor), rng, 20)
    assert median_error(fit, TRUTH.scaled(factor)) < 0.1
    feed(fit, TRUTH.scaled(factor), rng, 200)
    assert median_error(fit, TRUTH.scaled(factor)) < 0.04


def test_a_single_outlier_moves_nothing_by_much() -> None:
    rng = random.Random(0)
    fit = StepFit()
    feed(fit, TRUTH, rng, 300)
    before = fit.curve()
    shape = any_step(rng)
    fit.observe(shape, 1000 * TRUTH.seconds(shape))
    assert max(errors(fit.curve(), before)) < 1e-3


def test_an_hour_of_decodes_does_not_wear_away_what_is_known_of_prompts() -> None:
    rng = random.Random(1)
    fit = StepFit()
    feed(fit, TRUTH, rng, 300)
    feed(fit, TRUTH, rng, 10_000, decode_step)
    assert median_error(fit, TRUTH, prefill_step) < 0.06
    assert median_error(fit, TRUTH, decode_step) < 0.03


def test_a_slower_machine_seen_only_by_decodes_is_slower_for_prompts_too() -> None:
    rng = random.Random(2)
    fit = StepFit()
    feed(fit, TRUTH, rng, 300)
    feed(fit, TRUTH.scaled(2), rng, 60, decode_step)
    assert median_error(fit, TRUTH.scaled(2), prefill_step) < 0.15


def test_a_profile_stands_for_the_kind_of_step_that_was_never_seen() -> None:
    """Of another machine's profile the proportions are kept and the level is not."""
    rng = random.Random(3)
    fit = StepFit(profile=TRUTH)
    assert fit.known
    assert max(errors(fit.curve(), TRUTH)) < 1e-9
    feed(fit, TRUTH.scaled(1.2), rng, 200, decode_step)
    assert median_error(fit, TRUTH.scaled(1.2), decode_step) < 0.03
    assert median_error(fit, TRUTH.scaled(1.2), prefill_step) < 0.12


def test_without_a_profile_one_kind_of_step_is_enough_for_itself() -> None:
    rng = random.Random(4)
    fit = StepFit()
    assert not fit.known
    feed(fit, TRUTH, rng, 60, decode_step)
    assert fit.known
    assert median_error(fit, TRUTH, decode_step) < 0.05
    # It does not know prompts, and says so.
    low, high = fit.curve().interval(StepShape.chunk(512))
    known_low, known_high = fit.curve().interval(StepShape.decodes(8, 2000))
    assert high / low > 2 * known_high / known_low


def test_intervals_hold_as_many_steps_as_they_say() -> None:
    rng = random.Random(5)
    fit = StepFit()
    feed(fit, TRUTH, rng, 300)
    inside = ordinary = 0
    for _ in range(1500):
        shape = any_step(rng)
        seconds = noisy(rng, TRUTH.seconds(shape), outliers=0)
        low, high = fit.curve().interval(shape)
        inside += low <= seconds <= high
        ordinary += 1
        fit.observe(shape, noisy(rng, TRUTH.seconds(shape)))
    assert 0.86 < inside / ordinary < 0.97


def test_uncertainty_covers_steps_unlike_those_that_were_seen() -> None:
    """Extrapolations: the true curve lies within the stated interval for nine in ten fits."""
    far = StepShape.chunk(512, 4096)
    covered = 0
    for seed in range(40):
        rng = random.Random(seed)
        fit = StepFit(profile=TRUTH.scaled(1.5))
        feed(fit, TRUTH, rng, 80, decode_step)
        low, high = fit.curve().interval(far)
        covered += low <= TRUTH.seconds(far) <= high
    assert covered >= 36


def test_impossible_durations_are_ignored() -> None:
    fit = StepFit()
    for seconds in (0.0, -1.0, math.nan, math.inf):
        fit.observe(StepShape.chunk(10), seconds)
    assert not fit.known
    feed(fit, TRUTH, random.Random(6), 50)
    before = fit.curve()
    for seconds in (0.0, -1.0, math.nan, math.inf):
        fit.observe(StepShape.chunk(10), seconds)
    assert fit.curve() == before


def test_a_whole_profile_is_fitted_at_once_whatever_its_order() -> None:
    rng = random.Random(7)
    samples = [(shape, noisy(rng, TRUTH.seconds(shape))) for shape in
               (any_step(rng) for _ in range(120))]
    curve = fit_steps(samples)
    assert statistics.median(errors(curve, TRUTH)) < 0.03
    assert fit_steps(samples[::-1]).seconds(StepShape.chunk(99)) == pytest.approx(
        curve.seconds(StepShape.chunk(99))
    )
    with pytest.raises(ValueError, match="at least one step"):
        fit_steps([])

"""Intervals of few values are as wide as Student says, without a library for it."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from baton.bench.compare.statistics import mean_of
from baton.bench.planning.estimates import estimate
from baton.bench.student import half_width, student


@pytest.mark.parametrize("freedom", [*range(1, 40), 100, 1000, 10**6])
def test_it_is_what_scipy_says(freedom: int) -> None:
    assert student(freedom) == pytest.approx(float(stats.t.ppf(0.975, freedom)), rel=1e-4)


def test_of_one_value_nothing_is_known_and_of_equal_ones_all() -> None:
    assert half_width([3.0]) == math.inf
    assert half_width([3.0, 3.0, 3.0]) == 0.0
    with pytest.raises(ValueError, match="no values"):
        half_width([])


def test_plans_and_measurements_have_the_same_intervals() -> None:
    values = [1.0, 2.5, 2.0, 4.0]
    planned, measured = estimate(values), mean_of(values)
    assert (planned.low, planned.high) == pytest.approx((measured.low, measured.high), rel=1e-4)
    expected = stats.t.interval(0.95, 3, loc=2.375, scale=stats.sem(values))
    assert (measured.low, measured.high) == pytest.approx(expected, rel=1e-4)

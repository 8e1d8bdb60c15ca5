"""Intervals of repetitions and pairs, and the search for the highest rate."""

from __future__ import annotations

import math
import random

import pytest

from baton.bench.compare.search import Capacity, highest_rate
from baton.bench.compare.statistics import difference_of, mean_of, ratio_of


def test_a_mean_has_students_interval() -> None:
    # t(0.975, 4) = 2.776; the deviation of 1..5 is 1.5811.
    interval = mean_of([1, 2, 3, 4, 5])
    assert interval.mid == 3
    assert interval.high - 3 == pytest.approx(2.7764 * 1.5811 / math.sqrt(5), rel=1e-3)
    assert interval.known


def test_of_one_value_nothing_is_known() -> None:
    interval = mean_of([2.0])
    assert not interval.known
    assert not interval.above(-100)
    assert not interval.below(100)
    assert interval.to_dict() == {"mid": 2.0, "low": None, "high": None, "count": 1}


def test_pairs_tell_what_means_do_not() -> None:
    """Repetitions that differ much, and layouts that differ little but always."""
    theirs = [1.0, 5.0, 9.0, 2.0]
    ours = [value + 0.1 + 0.01 * n for n, value in enumerate(theirs)]
    assert difference_of(ours, theirs).above(0)
    assert not mean_of(ours).above(mean_of(theirs).high)
    with pytest.raises(ValueError, match="zip"):
        difference_of(ours, theirs[1:])


def test_a_ratio_is_as_far_up_as_down() -> None:
    ours, theirs = [2.0, 2.1, 1.9], [1.0, 1.0, 1.0]
    up, down = ratio_of(ours, theirs), ratio_of(theirs, ours)
    assert up.mid == pytest.approx(1 / down.mid)
    assert up.low == pytest.approx(1 / down.high)
    assert up.above(1.5)
    assert down.below(0.7)


def test_where_nothing_attained_there_is_no_ratio_but_an_order() -> None:
    assert ratio_of([1.0, 2.0], [0.0, 0.0]).mid == math.inf
    assert ratio_of([0.0], [0.0]).mid == 1.0
    assert not ratio_of([1.0, 2.0], [0.0, 1.0]).known


def test_intervals_hold_what_is_true_about_so_often() -> None:
    rng = random.Random(5)
    hits = sum(
        interval.low <= 10 <= interval.high
        for interval in (mean_of([rng.gauss(10, 3) for _ in range(4)]) for _ in range(400))
    )
    assert 0.92 <= hits / 400 <= 0.98


# -- the search ------------------------------------------------------------------------------


def search(border: float, start: float, **options: float) -> Capacity:
    def attainment(rate: float) -> float:
        return 1.0 if rate <= border else 0.5

    return highest_rate(attainment, start, wanted=0.9, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [0.1, 1.9, 2.0, 30.0])
def test_the_border_is_found_from_anywhere(start: float) -> None:
    capacity = search(2.0, start, most=30)
    assert capacity.holds <= 2.0 < capacity.fails
    assert capacity.fails <= capacity.holds * 1.05
    assert len(capacity.probes) <= 15


def test_nothing_holds() -> None:
    capacity = search(0.0, 1.0, most=20, lowest=0.2)
    assert (capacity.holds, capacity.found) == (0.0, False)
    assert [round(rate, 2) for rate, _ in capacity.probes] == [1.0, 0.62, 0.39, 0.24]


def test_everything_holds_until_the_measurements_are_used_up() -> None:
    capacity = search(1e9, 1.0, most=4)
    assert (len(capacity.probes), capacity.found) == (4, False)
    assert capacity.holds == pytest.approx(1.6**3)


def test_a_lower_rate_that_fails_counts_more_than_a_higher_one_that_held() -> None:
    capacity = Capacity()
    for rate, attainment in ((1.0, 1.0), (4.0, 0.95), (3.0, 0.8), (2.0, 0.9)):
        capacity.add(rate, attainment, 0.9)
    assert (capacity.holds, capacity.fails) == (2.0, 3.0)


def test_a_rate_is_above_zero() -> None:
    with pytest.raises(ValueError, match="above 0"):
        search(1.0, 0.0)

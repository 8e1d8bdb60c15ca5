"""What the hand-off bench reads out of the workers' histograms."""

from __future__ import annotations

import pytest

from baton.bench.handoff import median_of

INF = float("inf")


def test_the_median_of_what_came_between_two_readings() -> None:
    before = {0.001: 5.0, 0.002: 5.0, INF: 6.0}
    after = {0.001: 5.0, 0.002: 13.0, INF: 16.0}
    assert median_of(before, after) == (pytest.approx(0.001 + 0.001 * 5 / 8), 10)
    assert median_of({}, after) == (pytest.approx(0.001 + 0.001 * 3 / 8), 16)


def test_nothing_new_has_no_median_and_beyond_the_last_bound_it_is_that() -> None:
    same = {0.001: 5.0, INF: 6.0}
    assert median_of(same, same) == (0.0, 0)
    assert median_of({}, {}) == (0.0, 0)
    assert median_of({}, {0.001: 0.0, INF: 3.0}) == (0.001, 3)

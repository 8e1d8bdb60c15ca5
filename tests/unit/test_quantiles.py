"""Percentiles have one definition, for values and for counted values alike."""

from __future__ import annotations

import random
import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from baton.bench.quantiles import (
    quantile,
    quantile_of_counts,
    quantiles,
    quantiles_of_counts,
)

SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0)


def test_between_two_values_it_lies_on_the_line() -> None:
    assert quantile([2.0, 1.0], 0.5) == 1.5
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0], 0.9) == pytest.approx(4.6)
    assert quantile(list(range(51)), 0.99) == pytest.approx(49.5)
    assert quantile([7.0], 0.99) == 7.0
    assert quantile([], 0.5) is None
    assert quantile(np.zeros(0), 0.5) is None


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101, 1000])
def test_it_is_what_numpy_and_statistics_say(count: int) -> None:
    rng = random.Random(count)
    values = [rng.expovariate(1.0) for _ in range(count)]
    for share in SHARES:
        assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)))
    assert quantile(values, 0.5) == pytest.approx(statistics.median(values))


@pytest.mark.parametrize("seed", range(5))
def test_counted_values_are_values_that_are_there_so_often(seed: int) -> None:
    rng = random.Random(seed)
    values = sorted(rng.random() for _ in range(20))
    counts = [rng.randrange(0, 5) for _ in values]
    whole = [value for value, times in zip(values, counts, strict=True) for _ in range(times)]
    for share in SHARES:
        assert quantile_of_counts(values, counts, share) == pytest.approx(quantile(whole, share))
    assert quantile_of_counts([], [], 0.5) is None
    assert quantile_of_counts([1.0], [0], 0.5) is None


def test_several_at_once_are_what_each_is_alone() -> None:
    rng = random.Random(1)
    values = sorted(rng.expovariate(1.0) for _ in range(99))
    counts = [rng.randrange(0, 4) for _ in values]
    assert list(quantiles(values, SHARES)) == [quantile(values, share) for share in SHARES]
    found = quantiles_of_counts(values, counts, SHARES)
    assert found is not None
    assert list(found) == [quantile_of_counts(values, counts, share) for share in SHARES]


def test_nobody_has_another_definition() -> None:
    """A life that a sample must cover (`planning/fair.py`) is no percentile that is compared."""
    folder = Path(__file__).parents[2] / "bench"
    own = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if re.search(r"np\.(percentile|quantile)\(", path.read_text())
    }
    assert own == {"quantiles.py", "planning/fair.py"}

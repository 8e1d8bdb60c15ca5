"""Percentiles, defined once: what is planned, simulated and measured is compared by them.

Of n values in order, the share s lies at place (n - 1) s, from 0 on, and between two of them on the
straight line: NumPy's usual one, which other load generators have, too. So the half of 1 and 2 is
1.5, and the 99th percentile of fewer than a hundred is not simply the largest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def quantile(values: Sequence[float] | Floats, share: float) -> float | None:
    """In any order. `share` from 0 to 1. None of nothing."""
    return float(np.quantile(values, share)) if len(values) else None


def quantiles(values: Sequence[float] | Floats, shares: Sequence[float]) -> Floats:
    """Several at once. Raises IndexError of nothing."""
    return np.asarray(np.quantile(values, shares), dtype=np.float64)


def quantile_of_counts(
    values: Sequence[float] | Floats, counts: Sequence[int] | Counts, share: float
) -> float | None:
    """Of values in rising order that are there so many times each. None of nothing."""
    found = quantiles_of_counts(values, counts, (share,))
    return None if found is None else float(found[0])


def quantiles_of_counts(
    values: Sequence[float] | Floats, counts: Sequence[int] | Counts, shares: Sequence[float]
) -> Floats | None:
    """Several at once."""
    upto = np.cumsum(np.asarray(counts, dtype=np.int64))
    if not len(upto) or upto[-1] == 0:
        return None
    each = np.asarray(values, dtype=np.float64)
    places = np.asarray(shares) * (upto[-1] - 1)
    low = np.floor(places)
    below, above = (
        each[np.searchsorted(upto, at, side="right")] for at in (low, np.ceil(places))
    )
    return np.asarray(below + (above - below) * (places - low))

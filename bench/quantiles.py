"""Percentiles, defined once: what is planned, simulated and measured is compared by them.

Of n values in order, the share s lies at place (n - 1) s, from 0 on, and between two of them on the
straight line: NumPy's usual one, which other load generators have, too. So the half of 1 and 2 is
1.5, and the 99th percentile of fewer than a hundred is not simply the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def quantile(values: Sequence[float] | npt.NDArray[np.float64], share: float) -> float | None:
    """In any order. `share` from 0 to 1. None of nothing."""
    return float(np.quantile(values, share)) if len(values) else None


def quantile_of_counts(
    values: Sequence[float], counts: Sequence[int], share: float
) -> float | None:
    """Of values in rising order that are there so many times each. None of nothing."""
    upto = np.cumsum(np.asarray(counts, dtype=np.int64))
    if not len(upto) or upto[-1] == 0:
        return None
    place = share * (int(upto[-1]) - 1)
    low, high = math.floor(place), math.ceil(place)
    below, above = (values[int(np.searchsorted(upto, at, side="right"))] for at in (low, high))
    return float(below + (above - below) * (place - low))

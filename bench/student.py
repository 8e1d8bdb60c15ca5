"""Where a mean of few values lies with 95 % confidence: Student's t, for whatever is repeated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

CONFIDENCE = 0.95
_FEW = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814)
"""Of both sides, by degrees of freedom from 1 on."""
_NORMAL = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def student(freedom: int) -> float:
    """Standard errors that the interval reaches to either side. Beyond the table by Cornish and
    Fisher's expansion, which is right to a ten-thousandth there. `freedom`: at least 1."""
    if freedom <= len(_FEW):
        return _FEW[freedom - 1]
    z, n = _NORMAL, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def half_width(values: Sequence[float]) -> float:
    """Of the interval around their mean. Infinite of a single value, for it says nothing of others.
    Raises ValueError of nothing."""
    if not values:
        raise ValueError("no values")
    count = len(values)
    if count == 1:
        return math.inf
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return student(count - 1) * math.sqrt(variance / count)

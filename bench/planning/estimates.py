"""Figures of several seeds as one, with what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from baton.bench.planning.plan import SHARES, Estimate, Percentiles
from baton.bench.quantiles import quantile
from baton.bench.student import half_width

_DIGITS = 5


def estimate(values: Iterable[float]) -> Estimate:
    """Of independent runs. Raises ValueError without any."""
    found = list(values)
    if not found:
        raise ValueError("no values")
    mean = sum(found) / len(found)
    if len(found) == 1:
        return Estimate(*(shortened(mean),) * 3)
    half = half_width(found)
    return Estimate(shortened(mean), shortened(mean - half), shortened(mean + half))


def share(values: Iterable[float]) -> Estimate:
    """Of shares: the interval stays within 0 and 1."""
    found = estimate(values)
    return Estimate(found.value, max(0.0, found.low), min(1.0, found.high))


def percentiles(runs: Sequence[Sequence[float]], scale: float = 1e3) -> Percentiles:
    """Of each run first, then over runs, times `scale`. None where a run has no value."""
    return over_runs(lambda wanted: [
        None if (found := quantile(values, wanted)) is None else scale * found for values in runs
    ])


def over_runs(at: Callable[[float], Sequence[float | None]]) -> Percentiles:
    """`at(share)` gives the percentile of each run."""
    found: dict[str, Estimate | None] = {}
    for wanted in SHARES:
        values = [value for value in at(wanted) if value is not None]
        each = estimate(values) if values else None
        if each is not None:
            each = Estimate(each.value, max(0.0, each.low), each.high)
        found[f"p{round(100 * wanted)}"] = each
    return Percentiles(**found)


def shortened(value: float) -> float:
    """To so many digits that count: what is beyond is noise, and makes files long."""
    return float(f"{value:.{_DIGITS}g}")

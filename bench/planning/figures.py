"""Numbers as people read them."""

from __future__ import annotations

import math

from baton.bench.planning.plan import Estimate


def figure(value: float) -> str:
    """Three digits that count, no exponent: 4287 as `4,290`, 0.01234 as `0.0123`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(0, min(digits, 6))}f}".rstrip("0").rstrip(".") if (
        digits > 0
    ) else f"{rounded:,.0f}"


def around(found: Estimate | None, unit: str = "") -> str:
    """With half its interval, where it has one: `10.2 ± 0.4 ms`."""
    if found is None:
        return "-"
    half = (found.high - found.low) / 2
    interval = "" if half == 0 else f" ± {figure(float(f'{half:.2g}'))}"
    return figure(found.value) + interval + unit


def percent(found: Estimate) -> Estimate:
    """Of a share."""
    return Estimate(100 * found.value, 100 * found.low, 100 * found.high)

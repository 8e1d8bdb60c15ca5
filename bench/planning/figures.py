"""Numbers as people read them."""

from __future__ import annotations

import math


def figure(value: float) -> str:
    """Three digits that count, no exponent: 4287 as `4,290`, 0.01234 as `0.0123`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(0, min(digits, 6))}f}".rstrip("0").rstrip(".") if (
        digits > 0
    ) else f"{rounded:,.0f}"

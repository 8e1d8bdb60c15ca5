"""Values with units, as people write them: `300ms`, `2GiB`."""

from __future__ import annotations

import re

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"B": 1}
for _power, _prefix in enumerate("KMGT", start=1):
    _BYTES[f"{_prefix}iB"] = 1024**_power
    _BYTES[f"{_prefix}B"] = 1000**_power

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*")


def _parse(text: str, units: dict[str, float] | dict[str, int], kind: str, example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    lowered = {unit.lower(): scale for unit, scale in units.items()}
    unit = match[2].replace("µ", "u").lower() if match else ""
    if match is None or unit not in lowered:
        known = ", ".join(units)
        raise ValueError(f"{text!r} is not a {kind}: write a number and a unit ({known}), "
                         f"such as {example}")
    return float(match[1]) * lowered[unit]


def parse_duration(text: str) -> float:
    """`"300ms"` to 0.3 seconds. Raises ValueError with what would be right."""
    return _parse(text, _SECONDS, "duration", "300ms")


def parse_bytes(text: str) -> int:
    """`"2GiB"` to 2147483648. Raises ValueError with what would be right."""
    return int(_parse(text, _BYTES, "size", "2GiB"))


def format_bytes(count: float) -> str:
    """2147483648 to `"2.0 GiB"`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_duration(seconds: float) -> str:
    """0.0123 to `"12.3ms"`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f}ms"
    if seconds < 120:
        return f"{seconds:.1f}s"
    return f"{seconds / 60:.1f}m"

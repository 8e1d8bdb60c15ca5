"""Durations and shares as options of a command, with their units.

argparse says "invalid parse_duration value" of a ValueError, whatever that says; only the message
of its own error reaches who typed it.
"""

from __future__ import annotations

import argparse
import math

from baton.protocol.units import parse_duration


def duration(text: str) -> float:
    """`300ms` to 0.3 seconds. Raises argparse.ArgumentTypeError that says what would be right."""
    if _number(text) is not None:
        raise argparse.ArgumentTypeError(f"{text!r} needs a unit: {text}ms, 2s")
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def share(text: str) -> float:
    """`5%` or `0.05`, from 0 to 1. Raises argparse.ArgumentTypeError that says what would be
    right."""
    number = _number(text.removesuffix("%"))
    if number is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: write 5% or 0.05")
    found = number / 100 if text.endswith("%") else number
    if not 0 <= found <= 1:
        such = f", such as {text}%" if 0 <= found <= 100 else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1 (100%){such}")
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

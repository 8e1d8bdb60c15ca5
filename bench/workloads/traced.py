"""What readers of traces have in common: a request as a file tells it, and what is wrong with one.

An error names the line and the column or field, so that a file of a million lines can be mended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Traced:
    at: float
    """Seconds; after the first, once the whole trace was read."""
    prompt: int
    """Tokens."""
    output: int
    """Tokens, at least 1."""
    parts: tuple[tuple[str, int], ...] = ()
    """Of the prompt, from its beginning: (name, tokens). Equal names, equal tokens. What is left is
    nobody else's."""


class Malformed(ValueError):
    """`where`: column or field, or empty."""

    def __init__(self, line: int, where: str, what: str) -> None:
        super().__init__(f"line {line}{', ' if where else ''}{where}: {what}")


def number_of(value: Any, line: int, where: str) -> float:
    """Finite. Raises Malformed."""
    try:
        if isinstance(value, bool):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError) as error:
        raise Malformed(line, where, f"{value!r} is no number") from error
    if not math.isfinite(found):
        raise Malformed(line, where, f"{value} is not finite")
    return found


def tokens_of(value: Any, line: int, where: str, least: int = 1) -> int:
    """A whole number; 12.0 is one. Raises Malformed."""
    found = number_of(value, line, where)
    if found != int(found):
        raise Malformed(line, where, f"{value} is not a whole number of tokens")
    if found < least:
        raise Malformed(line, where, f"{value} tokens; at least {least}")
    return int(found)

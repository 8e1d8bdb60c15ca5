"""What a client asks for, once it has come: kinds of sessions, each of one or more turns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

MAX_TOKENS = 1024
"""What clients allow; nearly all answers are shorter."""
LONGEST = 16_384
"""Tokens of a prompt."""

Shared = tuple[tuple[int, int], ...]
"""What sessions have at their head: (seed, tokens). Equal seeds, equal tokens."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session, `after` seconds after the one before."""

    after: float
    new: int
    """Prompt tokens that are new; all before them is the history."""
    output: int


@dataclass(frozen=True, slots=True)
class Kind:
    """`session(rng)` gives what its sessions share at their head, and turns."""

    name: str
    session: Callable[[Random], tuple[Shared, list[Turn]]]
    turns: float
    """Of a session, on average."""
    prompt: int
    """Uncached tokens of a typical request: targets are made for it."""
    output: int
    """Tokens, on average."""
    lane: str = "interactive"
    draws: str = ""
    """Seeds its random numbers in place of its name, for kinds that had another name when the
    figures of earlier runs were made."""


def around(rng: Random, median: float, low: float, high: float, spread: float = 0.5) -> int:
    """Lognormal, within bounds."""
    return int(min(high, max(low, median * math.exp(rng.gauss(0.0, spread)))))

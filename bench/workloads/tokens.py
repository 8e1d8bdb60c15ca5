"""Prompts of tokens that nobody reads: equal where they should be shared, unlike elsewhere."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

VOCABULARY = 30_000
SPECIAL = 3
"""Tokens are not below this, where models have the ones that mean something to them."""


@lru_cache(maxsize=4096)
def random_tokens(seed: int, tokens: int, vocabulary: int = VOCABULARY) -> bytes:
    """Packed; the same for equal arguments."""
    drawn = np.random.default_rng(seed).integers(SPECIAL, vocabulary, tokens, dtype="<i4")
    return drawn.tobytes()

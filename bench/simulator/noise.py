"""Lognormal factors, drawn many at a time and given out one by one or many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DRAWN = 1024


class Noise:
    """The same for a seed, however they are taken. All 1 without a spread."""

    def __init__(self, spread: float, seed: int) -> None:
        self._spread = spread
        self._random = np.random.default_rng(seed)
        self._array: NDArray[np.float64] = np.ones(0)
        self._list: list[float] = []
        self._at = 0

    def next(self) -> float:
        if not self._spread:
            return 1.0
        if self._at == len(self._list):
            self._draw(0)
        factor = self._list[self._at]
        self._at += 1
        return factor

    def take(self, count: int) -> NDArray[np.float64] | float:
        """The next `count`, of which the last may be put back."""
        if not self._spread:
            return 1.0
        if self._at + count > len(self._list):
            self._draw(count)
        self._at += count
        return self._array[self._at - count : self._at]

    def put_back(self, count: int) -> None:
        """Of those taken last, before any other was."""
        if self._spread:
            self._at -= count

    def _draw(self, count: int) -> None:
        """So that there are `count` of them at least."""
        more = np.exp(self._spread * self._random.standard_normal(max(_DRAWN, count)))
        self._array = np.concatenate((self._array[self._at :], more))
        self._list = self._array.tolist()
        self._at = 0

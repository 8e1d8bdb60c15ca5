"""Counter-based randomness: the number for a token is a function of (seed, choice, position).

No generator state exists, so a sequence draws the same numbers whatever else is in the batch, on
whichever worker, and after a preemption or a migration.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: U64) -> U64:
    """The finalizer of splitmix64: a bijection on 64 bits in which every input bit moves every
    output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(
    seeds: list[int], choices: list[int], positions: list[int]
) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each (seed, choice, position), 53 random bits each. Any Python
    integers will do; they count modulo 2**64."""
    with np.errstate(over="ignore"):
        state = np.zeros(len(seeds), np.uint64)
        for counters in (seeds, choices, positions):
            words = np.array([counter & 0xFFFFFFFFFFFFFFFF for counter in counters], np.uint64)
            state = _mix((state ^ words) + _GOLDEN)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53

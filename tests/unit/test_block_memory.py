"""Gathering and scattering blocks of a pool: the right bytes, and no copy of what was not asked."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from baton.kvtransfer.memory import HostBlocks

BLOCKS, BLOCK_BYTES = 4096, 1024


@pytest.fixture
def memory() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (BLOCKS, BLOCK_BYTES), np.uint8)


@pytest.mark.parametrize(("start", "stop"), [(0, BLOCK_BYTES), (0, 512), (512, BLOCK_BYTES)])
def test_what_is_gathered_can_be_scattered_and_costs_no_copy_of_the_pool(
    start: int, stop: int, memory: np.ndarray
) -> None:
    part = HostBlocks(memory).part(start, stop)
    indexes = [7, 4000, 3, 8]
    out = np.zeros(len(indexes) * (stop - start), np.uint8)
    tracemalloc.start()
    try:
        part.gather(indexes, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < memory.nbytes // 100, "the pool was copied"
    assert np.array_equal(out.reshape(len(indexes), -1), memory[indexes, start:stop])
    before = memory.copy()
    part.scatter([1, 2, 5, 9], out)
    changed = before.copy()
    changed[[1, 2, 5, 9], start:stop] = before[indexes, start:stop]
    assert np.array_equal(memory, changed)

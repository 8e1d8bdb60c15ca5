"""Memory that other processes may map: zeros, sealed, found by address, gone with its last user;
and the KV pool that lies in it."""

from __future__ import annotations

import gc
import os
import threading

import numpy as np
import pytest

from baton.engine import kv_memory
from baton.engine.kv_memory import KVMemory
from baton.kernels import shared_memory
from baton.kernels.shared_memory import HUGE, Mapping, SharedMemory, is_sealed, region_of
from baton.protocol.kvlayout import KVLayout


def test_it_is_zeros_and_others_see_what_is_written() -> None:
    memory = SharedMemory(3 * HUGE + 5)
    assert memory.address % HUGE == 0
    assert memory.array.shape == (3 * HUGE + 5,)
    assert not memory.array.any()
    fd = os.dup(memory.fd)
    other = Mapping(fd, memory.size, writable=False)
    os.close(fd)
    assert other.address != memory.address
    memory.array[[0, HUGE, memory.size - 1]] = 7
    assert other.array[[0, HUGE, memory.size - 1]].tolist() == [7, 7, 7]
    with pytest.raises(ValueError, match="read-only"):
        other.array[0] = 1
    other.close()
    other.close()


def test_nobody_can_shrink_it() -> None:
    memory = SharedMemory(HUGE)
    assert is_sealed(memory.fd)
    for size in (HUGE - 1, HUGE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)
    plain = os.memfd_create("plain")
    assert not is_sealed(plain)
    os.close(plain)


def test_it_is_found_by_address_and_gone_with_its_last_user() -> None:
    memory = SharedMemory(HUGE)
    address = memory.address
    region = region_of(address + 5, 10)
    assert region is not None
    assert (region.address, region.size, region.fd) == (address, HUGE, memory.fd)
    assert region_of(address, HUGE) is region
    assert region_of(address, HUGE + 1) is None
    assert region_of(address - 1, 1) is None
    view = memory.array[100:200]
    del memory
    gc.collect()
    assert not region.is_gone, "a view is a user"
    view[:] = 1
    del view
    gc.collect()
    assert region.is_gone
    assert region_of(address, 1) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(region.fd)


def test_huge_pages_keep_what_is_written() -> None:
    memory = SharedMemory(4 * HUGE + 100)
    written = np.random.default_rng(3).integers(0, 256, 2 * HUGE + 77, dtype=np.uint8)
    memory.array[: len(written)] = written
    assert memory.wants_huge_pages(1)
    memory.use_huge_pages(1)
    memory.use_huge_pages(memory.size)
    assert not memory.wants_huge_pages(memory.size)
    memory.use_huge_pages(memory.size)
    assert np.array_equal(memory.array[: len(written)], written)
    assert not memory.array[len(written) :].any()


def test_more_than_the_machine_has_is_refused() -> None:
    with pytest.raises(MemoryError, match="on a machine of"):
        SharedMemory(1 << 50)


class TestPool:
    layout = KVLayout(2, 3, 64, 64, "bfloat16")

    def test_it_can_be_mapped_by_others(self) -> None:
        memory = KVMemory(self.layout, 50, "cpu")
        buffer = memory.block_buffer(49)
        region = region_of(buffer.ctypes.data, buffer.nbytes)
        assert region is not None
        assert region.address == memory.rows.ctypes.data

    def test_large_pages_come_before_they_are_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []
        monkeypatch.setattr(kv_memory, "HUGE_PAGES_AHEAD", 2 * HUGE)
        use = SharedMemory.use_huge_pages

        def count(memory: SharedMemory, end: int) -> None:
            asked.append(end)
            use(memory, end)

        monkeypatch.setattr(SharedMemory, "use_huge_pages", count)
        memory = KVMemory(self.layout, 8 * HUGE // self.layout.block_bytes + 1, "cpu")
        for used in (0, 0, 1, 20, 20):
            memory.keep_ahead(used)
            for thread in threading.enumerate():
                if thread.name == "kv pages":
                    thread.join()
        assert asked == [2 * HUGE, self.layout.block_bytes + 2 * HUGE,
                         20 * self.layout.block_bytes + 2 * HUGE][: len(asked)]
        assert 1 <= len(asked) <= 3
        memory.keep_ahead(memory.num_blocks)
        for thread in threading.enumerate():
            if thread.name == "kv pages":
                thread.join()
        assert asked[-1] == memory.num_blocks * self.layout.block_bytes

    def test_without_shared_memory_it_is_the_process_s_own(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.delattr(shared_memory.os, "memfd_create")
        memory = KVMemory(self.layout, 5, "cpu")
        assert not memory.tensor.any()
        assert region_of(memory.rows.ctypes.data, 1) is None
        assert "cannot be shared" in caplog.text
        memory.keep_ahead(5)

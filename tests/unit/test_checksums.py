"""Checksums of blocks: right, in order, and in slices that leave the loop free in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
from xxhash import xxh3_64_intdigest

from baton.deploy.settings import ModelSettings, WorkerSettings
from baton.kvtransfer.checksum import ChecksumQueue, checksum
from baton.protocol.errors import ConfigError

BLOCKS = np.random.default_rng(5).integers(0, 256, (12, 64), dtype=np.uint8)


class Turns:
    def __init__(self) -> None:
        self.waiting: deque[Callable[[], None]] = deque()
        self.queue = ChecksumQueue(lambda i: BLOCKS[i], self.waiting.append, slice_bytes=128)

    def run(self) -> int:
        count = 0
        while self.waiting:
            self.waiting.popleft()()
            count += 1
        return count


def sums(*blocks: int) -> bytes:
    return b"".join(
        xxh3_64_intdigest(BLOCKS[i].tobytes()).to_bytes(8, "little") for i in blocks)


def test_jobs_are_done_in_order_and_in_slices() -> None:
    turns = Turns()
    seen: list[bytes] = []
    turns.queue.compute((3, 1, 7, 2, 9), seen.append)
    turns.queue.compute((4,), seen.append)
    assert not seen, "never from within the call"
    assert turns.run() == 3, "six blocks of 64 bytes, two a turn"
    assert seen == [sums(3, 1, 7, 2, 9), sums(4)]
    turns.queue.compute((), seen.append)
    turns.run()
    assert seen[2:] == [b""]


def test_parts_of_a_message_are_read_when_their_turn_has_come() -> None:
    turns = Turns()
    reads: list[int] = []
    seen: list[bytes] = []

    def read() -> bytes:
        reads.append(1)
        return BLOCKS[2:6].tobytes()

    turns.queue.compute_parts(read, 4, seen.append)
    assert not reads
    turns.run()
    assert seen == [sums(2, 3, 4, 5)]
    assert len(reads) == 1


def test_verifying_names_the_blocks_that_differ() -> None:
    turns = Turns()
    seen: list[tuple[int, ...]] = []
    wanted = bytearray(sums(0, 1, 2, 3))
    turns.queue.verify((0, 1, 2, 3), bytes(wanted), seen.append)
    wanted[9] ^= 1
    turns.queue.verify((0, 1, 2, 3), bytes(wanted), seen.append)
    turns.run()
    assert seen == [(), (1,)]


def test_a_checksum_is_eight_bytes_of_xxh3_little_endian() -> None:
    assert checksum(BLOCKS[0]) == sums(0)
    assert len(checksum(BLOCKS[0])) == 8


def test_the_option_needs_host_memory() -> None:
    settings = {"worker_id": "w", "role": "mixed", "join": ("ipc:///x",)}
    model = ModelSettings(kv_checksum=True)
    assert WorkerSettings(**settings, model=model).model.kv_checksum
    with pytest.raises(ConfigError, match="--kv-checksum reads KV in host memory"):
        WorkerSettings(**settings, model=model, device="cuda:0")

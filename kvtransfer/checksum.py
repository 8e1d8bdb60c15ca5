"""Checksums of KV blocks (xxh3_64), computed on the event loop in slices that do not stall it.

A block that is given up while its turn has not come yields the checksum of whatever lies there
then; who gave it up does not look at it any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from xxhash import xxh3_64_intdigest

from baton.kvtransfer.transport import Buffer

CHECKSUM_BYTES = 8
SLICE_BYTES = 4 << 20
"""Between two turns of the loop; a third of a millisecond or so."""


def checksum(block: Buffer) -> bytes:
    """8 bytes, little endian. `block` is contiguous host memory."""
    return xxh3_64_intdigest(memoryview(block)).to_bytes(CHECKSUM_BYTES, "little")


@dataclass(slots=True)
class _Job:
    count: int
    part: Callable[[int], Buffer]
    on_done: Callable[[bytes], None]
    sums: bytearray = field(default_factory=bytearray)


class ChecksumQueue:
    """`block_buffer(i)` is the memory of block i; `call_soon` runs a function on a later turn of
    the loop. Jobs are done in order; `on_done` is never called from within the asking call."""

    def __init__(
        self,
        block_buffer: Callable[[int], Buffer],
        call_soon: Callable[[Callable[[], None]], object],
        slice_bytes: int = SLICE_BYTES,
    ) -> None:
        self._block_buffer = block_buffer
        self._call_soon = call_soon
        self._slice_bytes = slice_bytes
        self._jobs: deque[_Job] = deque()

    def compute(self, blocks: tuple[int, ...], on_done: Callable[[bytes], None]) -> None:
        """`on_done(checksums)`: 8 bytes per block, in order."""
        self._add(_Job(len(blocks), lambda index: self._block_buffer(blocks[index]), on_done))

    def compute_parts(
        self, read: Callable[[], Buffer], count: int, on_done: Callable[[bytes], None]
    ) -> None:
        """The same of `count` equal parts of what `read` returns when their turn has come."""
        parts: list[memoryview] = []

        def part(index: int) -> Buffer:
            if not parts:
                parts.append(memoryview(read()).cast("B"))
            size = len(parts[0]) // count
            return parts[0][index * size : (index + 1) * size]

        self._add(_Job(count, part, on_done))

    def verify(
        self, blocks: tuple[int, ...], wanted: bytes, on_done: Callable[[tuple[int, ...]], None]
    ) -> None:
        """`on_done(bad)`: those blocks whose checksums are not the wanted ones."""
        size = CHECKSUM_BYTES

        def compare(sums: bytes) -> None:
            places = ((block, slice(i * size, (i + 1) * size)) for i, block in enumerate(blocks))
            on_done(tuple(block for block, place in places if sums[place] != wanted[place]))

        self.compute(blocks, compare)

    def _add(self, job: _Job) -> None:
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._call_soon(self._slice)

    def _slice(self) -> None:
        left = self._slice_bytes
        done: list[_Job] = []
        while self._jobs and left > 0:
            job = self._jobs[0]
            while left > 0 and len(job.sums) < job.count * CHECKSUM_BYTES:
                block = memoryview(job.part(len(job.sums) // CHECKSUM_BYTES))
                job.sums += checksum(block)
                left -= max(block.nbytes, 1)
            if len(job.sums) == job.count * CHECKSUM_BYTES:
                done.append(self._jobs.popleft())
        if self._jobs:
            self._call_soon(self._slice)
        for job in done:
            job.on_done(bytes(job.sums))

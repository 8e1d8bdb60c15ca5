"""What a worker's prefix cache holds, as told to routers: changes as they happen, all of it on
request.

A worker numbers its batches of changes from 1 in each epoch, the same batches for all routers. A
router that missed one, or has just met the worker, sends `ResendCache` and gets a dump, in parts,
of what was there after a batch; batches with higher numbers follow on it. A batch holds net
changes, so to apply it twice does no harm, and the order within it does not matter.

What is told is closed: with a block, all blocks before it in its chain. Blocks that lie behind a
gap are left out, since no prompt can reach them, and come back when the gap is filled. So for each
worker the blocks of a prompt that it has are the first so many, and the number can be found by
bisection.

Names are shortened to 60 bits. That two of a cluster's blocks share a short name is improbable
(one in 50,000 for ten million blocks), and harmless: workers find blocks by their full names, so
the router would only expect a hit that does not come.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

from baton.protocol.records import Record

SHORT_BITS = 60
"""As many as fit two digits of a Python integer, which takes 32 bytes then, not 48."""

_BYTES = 8


class CacheEvents(Record, frozen=True):
    """Worker to router: one batch of changes."""

    sequence: int
    """Of the batch, one more than of the one before."""
    stored: bytes
    """Short names of blocks that can be found now, `pack_names`."""
    evicted: bytes
    """Of those that cannot any more; none is in both."""

    def __post_init__(self) -> None:
        if self.sequence < 1:
            raise ValueError(f"batches are numbered from 1, not {self.sequence}")
        _check(self.stored)
        _check(self.evicted)


class CacheDump(Record, frozen=True):
    """Worker to router: a part of all that can be found."""

    dump: int
    """Parts belong together that have the same number; later dumps have greater ones."""
    sequence: int
    """The last batch that is contained; 0 before the first."""
    part: int
    parts: int
    """At least one, also of an empty cache."""
    names: bytes
    """`pack_names`; the parts share none."""

    def __post_init__(self) -> None:
        if self.sequence < 0 or not 0 <= self.part < self.parts:
            raise ValueError(f"no part {self.part} of {self.parts} at batch {self.sequence}")
        _check(self.names)


class ResendCache(Record, frozen=True):
    """Router to worker: send a dump."""


CacheRecord = CacheEvents | CacheDump | ResendCache


def short_name(name: bytes) -> int:
    """The first 60 bits of a block's hash."""
    return int.from_bytes(name[:_BYTES], "little") >> (8 * _BYTES - SHORT_BITS)


def pack_names(names: Iterable[int]) -> bytes:
    """Short names to bytes, eight each, little-endian."""
    packed = array("Q", names)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_names(data: bytes) -> array[int]:
    """Bytes to short names. Raises ValueError when the length is not a multiple of eight."""
    packed = array("Q")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed


def num_names(data: bytes) -> int:
    """How many short names these bytes are."""
    return len(data) // _BYTES


def _check(data: bytes) -> None:
    if len(data) % _BYTES:
        raise ValueError(f"{len(data)} bytes are no short names of {_BYTES} bytes each")

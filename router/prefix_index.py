"""Which workers have which blocks in their caches, asked for a whole prompt at once. Pure.

One table: short name of a block to the set of workers that have it, a bit each. What a worker has
of a chain is always its first blocks (protocol/cache_events.py sees to that), so along a prompt the
sets only shrink, and where they do is found by bisection: the number of look-ups follows from how
many different lengths there are, not from the number of blocks or workers. In a large table nearly
every look-up misses the processor's caches, so their number is the cost.

The table is split by the names' first bits. A Python dict grows by moving all its entries at once,
which for millions takes a second, and the router would stand still; a shard takes a millisecond.

A worker's content lives in a *slot*, which is a bit of the sets:

    open() -> filling --show()--> shown --close()--> being swept --tidy()...--> free
                 +------------------close()---------------^

A new content for a worker fills a slot beside the old one, and takes its place in no time; the old
bits are swept out shard by shard. A worker may have several slots: it then has what the best of
them has.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Generic, TypeVar

from baton.protocol.cache_events import SHORT_BITS

_SHARD_BITS = 10
SHARDS = 1 << _SHARD_BITS
GROUP = 32
"""Slots whose owners are remembered together."""
_GROUP_MASK = (1 << GROUP) - 1
MOST_SETS = 1024
"""Of a group, that are remembered."""
_SPARED = 64 - SHORT_BITS
_SHIFT = SHORT_BITS - _SHARD_BITS
"""A dict of integers looks at their low bits first, so shards go by the high ones."""

W = TypeVar("W", bound=Hashable)


class PrefixIndex(Generic[W]):
    """`W`: whatever names a worker. Memory: some 60 bytes for each block that one worker has
    alone, next to nothing for each further worker that has it."""

    def __init__(self) -> None:
        self._shards: list[dict[int, int]] = [{} for _ in range(SHARDS)]
        self._bits: list[int] = []
        """By slot; kept, so that all sets of one worker alone are one object."""
        self._owners: list[W | None] = []
        self._sizes: list[int] = []
        self._free: list[int] = []
        """A heap of slots, lowest first: the sets stay small numbers."""
        self._shown = 0
        self._closed: dict[int, int] = {}
        """Slots being swept, and `_swept` when they were closed."""
        self._swept = 0
        """Shards swept since the beginning."""
        self._groups: list[dict[int, tuple[W, ...]]] = []
        """By GROUP slots: the owners of sets that were met. What many share is met again and
        again, and to take such a set apart bit by bit is most of what a look-up costs."""

    # -- slots -------------------------------------------------------------------------------

    def open(self) -> int:
        """A slot without blocks that nobody sees yet."""
        if self._free:
            slot = heappop(self._free)
        else:
            slot = len(self._bits)
            self._bits.append(1 << slot)
            self._owners.append(None)
            self._sizes.append(0)
            if slot % GROUP == 0:
                self._groups.append({})
        self._sizes[slot] = 0
        return slot

    def show(self, slot: int, owner: W) -> None:
        """From now on `match` counts the slot's blocks as this worker's."""
        self._owners[slot] = owner
        self._shown |= self._bits[slot]

    def close(self, slot: int) -> None:
        """Its blocks count no more. It is used again when `tidy` has been through all shards, at
        once if it is empty."""
        self._shown &= ~self._bits[slot]
        self._owners[slot] = None
        self._groups[slot // GROUP].clear()
        if self._sizes[slot]:
            self._closed[slot] = self._swept
        else:
            heappush(self._free, slot)

    def size(self, slot: int) -> int:
        """Blocks in it."""
        return self._sizes[slot]

    def store(self, slot: int, names: Iterable[int]) -> None:
        bit, shards, added = self._bits[slot], self._shards, 0
        for name in names:
            shard = shards[name >> _SHIFT]
            holders = shard.get(name)
            if holders is None:
                shard[name] = bit
                added += 1
            elif not holders & bit:
                shard[name] = holders | bit
                added += 1
        self._sizes[slot] += added

    def evict(self, slot: int, names: Iterable[int]) -> None:
        """Names that the slot does not hold are fine."""
        bit, shards, gone = self._bits[slot], self._shards, 0
        for name in names:
            shard = shards[name >> _SHIFT]
            holders = shard.get(name, 0)
            if not holders & bit:
                continue
            gone += 1
            if holders == bit:
                del shard[name]
            else:
                shard[name] = holders ^ bit
        self._sizes[slot] -= gone

    def tidy(self, shards: int = 1) -> bool:
        """Sweep this many shards, each a millisecond at most for a cluster with millions of blocks.
        False when nothing is left to sweep."""
        for _ in range(shards):
            if not self._closed:
                return False
            keep = ~sum(self._bits[slot] for slot in self._closed)
            at = self._swept % SHARDS
            shard = self._shards[at]
            if shard:
                self._shards[at] = {
                    name: left for name, holders in shard.items() if (left := holders & keep)
                }
            self._swept += 1
            for slot in [s for s, since in self._closed.items() if since + SHARDS <= self._swept]:
                del self._closed[slot]
                heappush(self._free, slot)
        return bool(self._closed)

    def __len__(self) -> int:
        """Different blocks in the table."""
        return sum(map(len, self._shards))

    # -- looking -----------------------------------------------------------------------------

    def match(self, names: Sequence[bytes]) -> dict[W, int]:
        """How many leading blocks of a chain (full names) each worker has, those that have most
        first. Workers that have none are left out."""
        found: dict[W, int] = {}
        if not names or not (first := self._holders(names[0])):
            return found
        end = len(names) - 1
        last = self._holders(names[end]) & first
        self._collect(last, end + 1, found)
        todo = [(0, first, end, last)]
        while todo:
            low, at_low, high, at_high = todo.pop()
            if at_low == at_high:
                continue
            if high - low == 1:
                self._collect(at_low ^ at_high, high, found)
                continue
            middle = (low + high) // 2
            # Who has the block at `high` has this one; that it seems otherwise for a worker that
            # we have missed something of must not confuse the search for the others.
            here = self._holders(names[middle]) & at_low | at_high
            todo.append((low, at_low, middle, here))
            todo.append((middle, here, high, at_high))
        return found

    def _holders(self, name: bytes) -> int:
        short = int.from_bytes(name[:8], "little") >> _SPARED  # `short_name`, without a call
        return self._shards[short >> _SHIFT].get(short, 0) & self._shown

    def _collect(self, holders: int, count: int, found: dict[W, int]) -> None:
        """`count` only becomes less from one call to the next: what was found stays."""
        for sets in self._groups:
            if not holders:
                return
            here = holders & _GROUP_MASK
            if here:
                owners = sets.get(here)
                if owners is None:
                    owners = self._remember(sets, here)
                for owner in owners:
                    if owner not in found:
                        found[owner] = count
            holders >>= GROUP

    def _remember(self, sets: dict[int, tuple[W, ...]], here: int) -> tuple[W, ...]:
        first = GROUP * next(at for at, group in enumerate(self._groups) if group is sets)
        owners = []
        for slot in range(first, first + here.bit_length()):
            if here >> (slot - first) & 1:
                owner = self._owners[slot]
                assert owner is not None, "a slot is shown that has no owner"
                owners.append(owner)
        if len(sets) >= MOST_SETS:
            sets.clear()
        sets[here] = tuple(owners)
        return sets[here]

"""Ways to know which worker caches which blocks, of which `PrefixIndex` is one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from baton.protocol.cache_events import short_name
from baton.router.prefix_index import PrefixIndex


class Structure(Protocol):
    """Workers are numbers, in the order in which they come."""

    def add_worker(self) -> None: ...

    def store(self, worker: int, names: Iterable[int]) -> None: ...

    def match(self, names: Sequence[bytes]) -> dict[int, int]: ...


class Sets:
    """A set of blocks for each worker, and for each a walk along the prompt."""

    def __init__(self) -> None:
        self.sets: list[set[int]] = []

    def add_worker(self) -> None:
        self.sets.append(set())

    def store(self, worker: int, names: Iterable[int]) -> None:
        self.sets[worker].update(names)

    def match(self, names: Sequence[bytes]) -> dict[int, int]:
        short = [short_name(name) for name in names]
        found = {}
        for worker, held in enumerate(self.sets):
            count = 0
            for name in short:
                if name not in held:
                    break
                count += 1
            if count:
                found[worker] = count
        return found


class BisectedSets(Sets):
    """The same, by bisection."""

    def match(self, names: Sequence[bytes]) -> dict[int, int]:
        found = {}
        for worker, held in enumerate(self.sets):
            low, high = 0, len(names)
            while low < high:
                middle = (low + high) // 2
                if short_name(names[middle]) in held:
                    low = middle + 1
                else:
                    high = middle
            if low:
                found[worker] = low
        return found


class OneTable:
    """One dict of bit sets, and a walk along the prompt."""

    def __init__(self) -> None:
        self.table: dict[int, int] = {}
        self.workers = 0

    def add_worker(self) -> None:
        self.workers += 1

    def store(self, worker: int, names: Iterable[int]) -> None:
        bit, table = 1 << worker, self.table
        for name in names:
            held = table.get(name)
            table[name] = bit if held is None else held | bit

    def match(self, names: Sequence[bytes]) -> dict[int, int]:
        found: dict[int, int] = {}
        left = (1 << self.workers) - 1
        for count, name in enumerate(names):
            here = self.table.get(short_name(name), 0) & left
            if here != left:
                _collect(left ^ here, count, found)
                left = here
                if not left:
                    break
        _collect(left, len(names), found)
        return found


def _collect(bits: int, count: int, found: dict[int, int]) -> None:
    while bits and count:
        low = bits & -bits
        found[low.bit_length() - 1] = count
        bits ^= low


class Sharded:
    """What the router uses."""

    def __init__(self) -> None:
        self.index: PrefixIndex[int] = PrefixIndex()
        self.slots: list[int] = []

    def add_worker(self) -> None:
        slot = self.index.open()
        self.index.show(slot, len(self.slots))
        self.slots.append(slot)

    def store(self, worker: int, names: Iterable[int]) -> None:
        self.index.store(self.slots[worker], names)

    def match(self, names: Sequence[bytes]) -> dict[int, int]:
        return self.index.match(names)


STRUCTURES: dict[str, type[Structure]] = {
    "sets, walked": Sets,
    "sets, bisected": BisectedSets,
    "one table, walked": OneTable,
    "sharded table, bisected": Sharded,
}

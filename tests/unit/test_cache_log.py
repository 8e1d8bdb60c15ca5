"""What routers are told of a cache: the blocks that a prompt can reach, in batches and dumps."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from baton.engine.cache_log import FIRST, CacheLog
from baton.protocol.cache_events import (
    CacheDump,
    CacheEvents,
    pack_names,
    short_name,
    unpack_names,
)
from baton.protocol.hashing import chain_hashes, root_hash

NAMES = chain_hashes(root_hash("test"), range(12), 1)
CHAIN = list(zip(NAMES, [FIRST, *NAMES], strict=False))


def names_of(data: bytes) -> set[bytes]:
    by_short = {short_name(name): name for name in NAMES}
    names = [by_short[short] for short in unpack_names(data)]
    assert len(set(names)) == len(names)
    return set(names)


def told(batch: CacheEvents | None) -> tuple[set[bytes], set[bytes]]:
    assert batch is not None
    return names_of(batch.stored), names_of(batch.evicted)


def dumped(log: CacheLog) -> set[bytes]:
    return set().union(*(names_of(part.names) for part in log.dump()))


def test_a_batch_holds_what_changed_since_the_last() -> None:
    log = CacheLog()
    assert log.take() is None
    log.add(CHAIN[:3])
    first = log.take()
    assert told(first) == (set(NAMES[:3]), set())
    log.add([(NAMES[2], None), CHAIN[0]])
    second = log.take()
    assert told(second) == (set(), {NAMES[2]})
    assert first is not None
    assert second is not None
    assert (first.sequence, second.sequence, log.sequence) == (1, 2, 2)
    assert log.take() is None
    assert log.sequence == 2


def test_what_comes_and_goes_between_batches_is_not_told() -> None:
    log = CacheLog()
    log.add(CHAIN[:2])
    log.take()
    log.add([CHAIN[2], (NAMES[2], None), (NAMES[1], None), CHAIN[1]])
    assert log.take() is None


def test_blocks_behind_a_gap_are_gone_until_it_closes() -> None:
    log = CacheLog()
    log.add([*CHAIN[:5], (NAMES[1], None)])
    assert len(log) == 1
    assert told(log.take()) == ({NAMES[0]}, set())
    assert dumped(log) == {NAMES[0]}
    log.add([CHAIN[1]])
    assert told(log.take()) == (set(NAMES[1:5]), set())
    log.add([(NAMES[2], None), (NAMES[4], None)])  # one of them behind the gap
    assert told(log.take()) == (set(), set(NAMES[2:5]))
    log.add([CHAIN[2]])
    assert told(log.take()) == ({NAMES[2], NAMES[3]}, set())


def test_a_dump_goes_with_the_last_batch() -> None:
    """What it has beyond that, the next batch could leave out as having come and gone."""
    log = CacheLog()
    log.add(CHAIN[:3])
    log.take()
    log.add([(NAMES[2], None)])
    assert dumped(log) == set(NAMES[:3])
    log.add([CHAIN[2], CHAIN[3]])
    assert dumped(log) == set(NAMES[:3])
    assert {part.sequence for part in log.dump()} == {1}
    assert told(log.take()) == ({NAMES[3]}, set())


def test_the_parts_of_a_dump() -> None:
    log = CacheLog(part_names=5)
    [empty] = log.dump()
    assert (empty.dump, empty.sequence, empty.part, empty.parts, empty.names) == (1, 0, 0, 1, b"")
    log.add(CHAIN)
    log.take()
    parts = log.dump()
    log.add([(NAMES[11], None)])
    log.take()
    taken = list(parts)
    assert [(p.dump, p.sequence, p.part, p.parts) for p in taken] == [
        (2, 1, 0, 3), (2, 1, 1, 3), (2, 1, 2, 3)
    ]
    assert [len(names_of(p.names)) for p in taken] == [5, 5, 2]
    assert set().union(*(names_of(p.names) for p in taken)) == set(NAMES)


@pytest.mark.parametrize("record", [
    CacheEvents(sequence=1, stored=b"", evicted=b""),
    CacheDump(dump=1, sequence=0, part=0, parts=1, names=b""),
], ids=lambda record: type(record).__name__)
def test_malformed_records_do_not_arrive(record: CacheEvents | CacheDump) -> None:
    plain = msgspec.to_builtins(record, builtin_types=(bytes,))
    kind = type(record)
    assert msgspec.convert(plain, kind, builtin_types=(bytes,)) == record
    with pytest.raises(msgspec.ValidationError, match="7 bytes are no short names"):
        msgspec.convert([*plain[:-1], b"1234567"], kind, builtin_types=(bytes,))


def test_numbers_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="numbered from 1"):
        CacheEvents(sequence=0, stored=b"", evicted=b"")
    for part, parts in ((1, 1), (-1, 1), (0, 0)):
        with pytest.raises(ValueError, match="no part"):
            CacheDump(dump=1, sequence=0, part=part, parts=parts, names=pack_names([]))


TREE = [None, *((i - 1) // 2 for i in range(1, 31))]
"""A parent for each of 31 blocks; the first begins the chain, as do 7 and 8."""
TREE[7] = TREE[8] = None
TREE_NAMES = [root_hash(str(i)) for i in range(31)]


class LogMachine(RuleBasedStateMachine):
    """A pool that stores and evicts in any order, duplicates taking over, and what may be said."""

    @initialize()
    def setup(self) -> None:
        self.log = CacheLog(part_names=3)
        self.pool: set[int] = set()
        self.known: set[int] = set()
        self.sequence = 0

    def reachable(self) -> set[int]:
        found: set[int] = set()
        for block in sorted(self.pool):
            parent = TREE[block]
            if parent is None or parent in found:
                found.add(block)
        return found

    @rule(block=st.integers(0, 30))
    def store(self, block: int) -> None:
        parent = TREE[block]
        self.pool.add(block)
        self.log.add([(TREE_NAMES[block], FIRST if parent is None else TREE_NAMES[parent])])

    @rule(block=st.integers(0, 30))
    def evict(self, block: int) -> None:
        self.pool.discard(block)
        self.log.add([(TREE_NAMES[block], None)])

    @rule()
    def take(self) -> None:
        batch = self.log.take()
        if batch is not None:
            stored, evicted = self.blocks(batch.stored), self.blocks(batch.evicted)
            assert not stored & self.known
            assert evicted <= self.known
            self.known = (self.known - evicted) | stored
            self.sequence += 1
            assert batch.sequence == self.sequence
        assert self.known == self.reachable()

    @invariant()
    def dump_is_what_was_told(self) -> None:
        parts = list(self.log.dump())
        assert {part.sequence for part in parts} == {self.sequence}
        assert set().union(*(self.blocks(part.names) for part in parts)) == self.known
        assert len(self.log) == len(self.reachable())

    def blocks(self, data: bytes) -> set[int]:
        by_short = {short_name(name): i for i, name in enumerate(TREE_NAMES)}
        return {by_short[short] for short in unpack_names(data)}


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)

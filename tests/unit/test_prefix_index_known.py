"""What a router knows of its workers' caches: told, or just computed."""

from __future__ import annotations

import pytest

from baton.engine.cache_log import FIRST, CacheLog
from baton.protocol.cache_events import CacheEvents, pack_names
from baton.protocol.hashing import chain_hashes, root_hash
from baton.protocol.ids import Identity
from baton.router.known_prefixes import GENERATION, KnownPrefixes

NAMES = chain_hashes(root_hash("test"), range(8), 1)
OTHER = chain_hashes(root_hash("other"), range(8), 1)
A, B = Identity("a", 1), Identity("b", 1)


class Rig:
    def __init__(self) -> None:
        self.known = KnownPrefixes()
        self.log = CacheLog()
        self.known.join(A, 100)

    def in_step(self, count: int) -> Rig:
        self.log.add(zip(NAMES[:count], [FIRST, *NAMES], strict=False))
        self.log.take()
        assert self.known.tick(0.0) == [A]
        for part in self.log.dump():
            self.known.on_record(A, part, 0.0)
        return self

    def tell(self) -> None:
        batch = self.log.take()
        assert batch is not None
        self.known.on_record(A, batch, 0.0)


def test_what_was_told_is_known_exactly() -> None:
    rig = Rig().in_step(3)
    assert rig.known.held(NAMES) == {A: 3}
    rig.log.add([(NAMES[2], None)])
    rig.tell()
    assert rig.known.held(NAMES) == {A: 2}
    assert rig.known.tick(100.0) == []


def test_what_was_just_computed_counts_before_it_is_told_and_not_for_ever() -> None:
    rig = Rig().in_step(3)
    rig.known.remember(A, NAMES[:6])
    rig.known.remember(A, OTHER[:2])
    rig.known.remember(A, NAMES[:5])  # shorter, and it stays 6
    assert rig.known.held(NAMES) == {A: 6}
    rig.known.tick(GENERATION)
    assert rig.known.held(NAMES) == {A: 6}
    rig.known.tick(1.5 * GENERATION)
    assert rig.known.held(OTHER) == {A: 2}
    rig.known.tick(2 * GENERATION)
    assert rig.known.held(NAMES) == {A: 3}
    assert rig.known.held(OTHER) == {}


def test_what_was_computed_and_is_evicted_is_gone_when_that_is_told() -> None:
    rig = Rig().in_step(3)
    rig.known.remember(A, NAMES[:3])
    rig.known.tick(GENERATION)
    rig.known.remember(A, NAMES[:3])
    rig.log.add([(NAMES[2], None), (NAMES[1], None)])
    rig.tell()
    assert rig.known.held(NAMES) == {A: 1}


def test_generations_reuse_their_slots() -> None:
    rig = Rig().in_step(3)
    for turn in range(1, 50):
        rig.known.remember(A, NAMES)
        rig.known.tick(turn * GENERATION)
    assert len(rig.known._index._bits) <= 3


def test_a_lost_worker_has_nothing() -> None:
    rig = Rig().in_step(3)
    rig.known.remember(A, NAMES)
    rig.known.tick(GENERATION)
    rig.known.remember(A, OTHER)
    rig.known.leave(A)
    assert rig.known.held(NAMES) == rig.known.held(OTHER) == {}
    again = Identity("a", 2)
    rig.known.join(again, 100)
    assert rig.known.held(NAMES) == {}
    rig.known.leave(A)  # idempotent
    for turn in range(2, 5):
        rig.known.tick(turn * GENERATION)
    assert rig.known.tick(100.0) == [again]


def test_of_one_that_tells_nothing_nothing_is_known() -> None:
    rig = Rig().in_step(2)
    rig.known.remember(B, NAMES[:5])
    assert rig.known.held(NAMES) == {A: 2}
    rig.known.join(B, 100)  # now it does
    rig.known.remember(B, NAMES[:5])
    assert rig.known.held(NAMES) == {A: 2, B: 5}


def test_leading_blocks_are_counted_for_each() -> None:
    rig = Rig()
    rig.known.join(B, 100)
    rig.known.remember(A, NAMES[:3])
    rig.known.remember(B, NAMES[:1])
    rig.known.remember(B, [NAMES[2]])  # without the one before it, worth nothing
    assert rig.known.held(NAMES[:4]) == {A: 3, B: 1}
    assert rig.known.held([NAMES[0], OTHER[0]]) == {A: 1, B: 1}
    assert rig.known.held([OTHER[0], NAMES[0]]) == {}
    assert rig.known.held([]) == {}


def test_nothing_is_kept_of_one_that_tells_too_much() -> None:
    rig = Rig().in_step(2)
    rig.known.remember(A, NAMES[:5])
    too_many = CacheEvents(sequence=2, stored=pack_names(range(1, 100)), evicted=b"")
    with pytest.raises(ValueError, match="101 cached blocks"):
        rig.known.on_record(A, too_many, 0.0)
    rig.known.tick(GENERATION)
    rig.known.tick(2 * GENERATION)
    assert rig.known.held(NAMES) == {}

"""The block pool: states, sharing, names, eviction."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.engine.block_pool import BlockPool, BlockState, IntegrityError, Use


def names(*parts: str) -> list[bytes]:
    return [part.encode() for part in parts]


def cached_chain(pool: BlockPool, *parts: str) -> list[int]:
    """A chain that was computed and given up."""
    blocks = pool.allocate(len(parts), Use.ACTIVE)
    assert blocks is not None
    for block, name in zip(blocks, names(*parts), strict=True):
        pool.register(block, name)
    pool.release(blocks, Use.ACTIVE)
    return blocks


def test_fresh_blocks_come_in_ascending_order() -> None:
    pool = BlockPool(8)
    assert pool.allocate(3, Use.ACTIVE) == [0, 1, 2]
    assert pool.allocate(2, Use.HELD) == [3, 4]
    counts = pool.counts()
    assert (counts.free, counts.active, counts.held) == (3, 3, 2)


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(4)
    pool.allocate(3, Use.ACTIVE)
    assert pool.allocate(2, Use.ACTIVE) is None
    assert pool.counts().free == 1
    pool.check_integrity()


def test_unnamed_blocks_are_free_when_given_up_and_named_ones_cached() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(3, Use.ACTIVE)
    assert blocks is not None
    pool.register(blocks[0], b"a")
    pool.release(blocks, Use.ACTIVE)
    assert pool.match(names("a", "b")) == [blocks[0]]
    counts = pool.counts()
    assert (counts.free, counts.cached) == (3, 1)
    pool.check_integrity()


def test_match_stops_at_the_first_gap() -> None:
    pool = BlockPool(4)
    blocks = cached_chain(pool, "a", "b")
    assert pool.match(names("a", "x", "b")) == [blocks[0]]


def test_acquire_counts_what_pinning_takes() -> None:
    pool = BlockPool(4)
    matched = cached_chain(pool, "a", "b")
    assert not pool.fits(matched, 3)
    assert pool.acquire(matched, 3, Use.ACTIVE) is None
    assert pool.counts().cached == 2
    assert pool.acquire(matched, 2, Use.ACTIVE) == [0, 1, 2, 3]
    pool.check_integrity()


def test_a_shared_block_is_given_up_by_the_last_user() -> None:
    pool = BlockPool(2)
    [block] = cached_chain(pool, "a")
    pool.pin([block], Use.ACTIVE)
    pool.pin([block], Use.HELD)
    pool.release([block], Use.ACTIVE)
    assert pool.state(block) is BlockState.HELD
    pool.release([block], Use.HELD)
    assert pool.state(block) is BlockState.CACHED


def test_eviction_takes_the_least_recently_used_and_children_before_parents() -> None:
    pool = BlockPool(6)
    cached_chain(pool, "a", "b", "c")
    cached_chain(pool, "x", "y")
    pool.pin(pool.match(names("a", "b", "c")), Use.ACTIVE)
    pool.release(pool.match(names("a", "b", "c")), Use.ACTIVE)  # now the newest
    pool.allocate(2, Use.ACTIVE)  # the free block, and y
    assert pool.match(names("x", "y")) == pool.match(names("x"))
    pool.allocate(2, Use.ACTIVE)  # x, and c
    assert pool.match(names("x")) == []
    assert len(pool.match(names("a", "b", "c"))) == 2
    pool.check_integrity()


def test_the_first_block_with_a_content_stays_the_one_that_is_found() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(2, Use.ACTIVE) or []
    pool.register(first, b"a")
    pool.register(second, b"a")
    assert pool.match([b"a"]) == [first]
    pool.release([second], Use.ACTIVE)
    assert pool.state(second) is BlockState.FREE
    pool.release([first], Use.ACTIVE)
    assert pool.state(first) is BlockState.CACHED
    pool.check_integrity()


def test_a_duplicate_takes_over_when_the_first_was_evicted() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2, Use.ACTIVE) or []
    pool.register(first, b"a")
    pool.register(second, b"a")
    pool.release([first], Use.ACTIVE)
    pool.allocate(1, Use.ACTIVE)  # evicts the first
    assert pool.match([b"a"]) == []
    pool.release([second], Use.ACTIVE)
    assert pool.match([b"a"]) == [second]
    pool.check_integrity()


def test_giving_up_a_duplicate_keeps_its_parent_longer_than_the_child() -> None:
    pool = BlockPool(4)
    [parent] = cached_chain(pool, "a")
    twin, child = pool.allocate(2, Use.ACTIVE) or []
    pool.register(twin, b"a")
    pool.register(child, b"b")
    pool.release([twin, child], Use.ACTIVE)
    pool.allocate(3, Use.ACTIVE)  # the two free ones, and one of the chain
    assert pool.match(names("a", "b")) == [parent]


def test_quarantined_blocks_stay_out_of_use() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(3, Use.HELD) or []
    pool.quarantine(blocks[:2], Use.HELD)
    pool.release(blocks[2:], Use.HELD)
    assert pool.counts().quarantined == 2
    assert pool.allocate(2, Use.ACTIVE) is None
    pool.unquarantine(blocks[:2])
    pool.unquarantine(blocks[:2])  # idempotent
    assert pool.counts().free == 3
    pool.check_integrity()


def test_a_quarantined_block_that_others_use_stays_theirs_until_they_are_done() -> None:
    pool = BlockPool(2)
    [block] = cached_chain(pool, "a")
    pool.pin([block], Use.HELD)
    pool.pin([block], Use.ACTIVE)
    pool.quarantine([block], Use.HELD)
    assert pool.state(block) is BlockState.ACTIVE
    pool.release([block], Use.ACTIVE)
    assert pool.state(block) is BlockState.QUARANTINED
    pool.unquarantine([block])
    assert pool.match([b"a"]) == [block]
    pool.check_integrity()


def test_change_of_use() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2, Use.HELD) or []
    pool.change_use(blocks, Use.HELD, Use.ACTIVE)
    assert (pool.counts().held, pool.counts().active) == (0, 2)


def test_giving_up_what_is_not_used_is_an_error() -> None:
    pool = BlockPool(2)
    with pytest.raises(IntegrityError, match="block 1 has no ACTIVE use"):
        pool.release([1], Use.ACTIVE)
    with pytest.raises(IntegrityError, match="gets a name"):
        pool.register(0, b"a")


def test_clear_cache() -> None:
    pool = BlockPool(4)
    cached_chain(pool, "a", "b")
    pool.clear_cache()
    assert pool.counts().free == 4
    assert pool.allocate(4, Use.ACTIVE) == [0, 1, 2, 3]
    pool.check_integrity()


def test_check_integrity_says_what_is_wrong() -> None:
    pool = BlockPool(2)
    pool.allocate(1, Use.ACTIVE)
    pool._uses[Use.ACTIVE][0] = 0
    with pytest.raises(IntegrityError, match="block 0 is ACTIVE, should be FREE"):
        pool.check_integrity()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)), max_size=60))
def test_any_order_of_chains_keeps_the_pool_whole(moves: list[tuple[int, int, int]]) -> None:
    """Chains that share a trunk are computed, shared and given up in any order. Whatever is
    evicted, no cached block is left whose predecessors are gone."""
    pool = BlockPool(7)
    chains = [names("a", "b", *branch) for branch in ("c", "cd", "e", "ef", "", "cdg")]
    owned: list[tuple[list[int], Use]] = []
    for kind, number, short in moves:
        chain = chains[number]
        if kind < 2:
            use = Use(kind)
            matched = pool.match(chain[: len(chain) - short])
            again = number + short != 3
            blocks = pool.acquire(matched, len(chain) - len(matched), use, again=again)
            if blocks is not None:
                for block, name in zip(blocks, chain, strict=True):
                    pool.register(block, name)
                owned.append((blocks, use))
        elif owned:
            blocks, use = owned.pop(number % len(owned))
            pool.release(blocks, use)
        pool.check_integrity()
        if not owned:
            for chain in chains:
                present = [pool.match([name]) != [] for name in chain]
                assert present == sorted(present, reverse=True), (chain, present)
    for blocks, use in owned:
        pool.release(blocks, use)
    pool.check_integrity()
    assert pool.counts().active == pool.counts().held == 0


def test_what_can_be_found_is_noted() -> None:
    changes: list[tuple[bytes, bytes | None]] = []
    pool = BlockPool(3, changes)
    first, second, spare = pool.allocate(3, Use.ACTIVE) or []
    pool.register(first, b"a")
    pool.register(second, b"b", b"a")
    pool.register(spare, b"b", b"a")  # a duplicate
    assert changes == [(b"a", b""), (b"b", b"a")]
    changes.clear()
    pool.release([first, second], Use.ACTIVE)
    pool.allocate(1, Use.HELD)  # evicts b
    assert changes == [(b"b", None)]
    pool.release([spare], Use.ACTIVE)  # the duplicate takes over
    assert changes == [(b"b", None), (b"b", b"a")]
    changes.clear()
    pool.clear_cache()
    assert set(changes) == {(b"a", None), (b"b", None)}
    assert BlockPool(3)._changes is None

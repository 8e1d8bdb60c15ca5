"""From the pool to what routers are told."""

from __future__ import annotations

from engine_driver import BLOCK, Driver
from make_request import make_request

from baton.engine.block_pool import BlockPool, Use
from baton.engine.cache_log import FIRST, CacheChange, CacheLog
from baton.protocol.hashing import chain_hashes, root_hash

NAMES = chain_hashes(root_hash("test"), range(4), 1)


def test_blocks_are_noted_with_their_parents() -> None:
    driver = Driver(16)
    key = driver.start(make_request("r", list(range(3 * BLOCK + 1)), max_tokens=1))
    driver.run()
    root = driver.scheduler._cache.root("")
    chain = chain_hashes(root, driver.tokens(key), BLOCK)
    assert driver.cache_changes == list(zip(chain, [FIRST, *chain[:-1]], strict=True))


def test_what_lies_behind_an_evicted_block_is_told_when_its_duplicate_takes_over() -> None:
    """A sequence computed the second block once more and went on from it; what others cached of
    it is evicted meanwhile, so for a while nobody finds the third."""
    changes: list[CacheChange] = []
    pool, log = BlockPool(5, changes), CacheLog()

    def told() -> int:
        log.add(changes)
        changes.clear()
        return len(log)

    def register(blocks: list[int]) -> None:
        for block, name, parent in zip(blocks, NAMES, [FIRST, *NAMES], strict=False):
            pool.register(block, name, parent)

    first = pool.allocate(2, Use.ACTIVE) or []
    register(first)
    assert told() == 2
    again = [first[0], *(pool.allocate(2, Use.ACTIVE) or [])]
    pool.pin(first[:1], Use.ACTIVE)
    register(again)
    assert told() == 3
    pool.release(first, Use.ACTIVE)
    assert pool.allocate(2, Use.ACTIVE)  # the free one, and the first duplicate of the second
    assert len(pool.match(NAMES)) == told() == 1
    pool.release(again, Use.ACTIVE)
    assert len(pool.match(NAMES)) == told() == 3

"""What is used once does not push out what is used again."""

from __future__ import annotations

from random import Random

from engine_driver import BLOCK, Driver
from make_request import make_request

from baton.engine.block_pool import BlockPool, Use
from baton.engine.eviction import EvictionQueue


def chain(name: str, length: int) -> list[bytes]:
    return [f"{name}{index}".encode() for index in range(length)]


def use(pool: BlockPool, names: list[bytes], *, again: bool = True) -> int:
    """One sequence computes what the pool lacks of a chain. How many blocks it found."""
    matched = pool.match(names)
    blocks = pool.acquire(matched, len(names) - len(matched), Use.ACTIVE, again=again)
    assert blocks is not None
    for block, name in zip(blocks, names, strict=True):
        pool.register(block, name)
    pool.release(blocks, Use.ACTIVE)
    pool.check_integrity()
    return len(matched)


def test_prompts_that_come_once_do_not_flush_a_prefix_that_is_shared() -> None:
    pool = BlockPool(60)
    shared = chain("shared", 10)
    for turn in range(2):
        use(pool, shared + chain(f"tail{turn}", 2))
    for number in range(20):
        use(pool, chain(f"long{number}", 45))
    assert len(pool.match(shared)) == 10


def test_without_a_second_use_the_oldest_goes() -> None:
    pool = BlockPool(60)
    use(pool, chain("once", 10))
    for number in range(2):
        use(pool, chain(f"long{number}", 40))
    assert pool.match(chain("once", 10)) == []


def test_a_long_prompt_evicts_what_is_protected_when_it_must() -> None:
    pool = BlockPool(30)
    for _ in range(2):
        use(pool, chain("shared", 10))
    use(pool, chain("all", 30))
    assert pool.match(chain("shared", 10)) == []
    assert len(pool.match(chain("all", 30))) == 30


def test_what_was_protected_long_ago_makes_room() -> None:
    """A third of 30 blocks is protected: the second prefix takes the place of the first."""
    pool = BlockPool(30)
    for name in ("old", "new"):
        for _ in range(2):
            use(pool, chain(name, 10))
    use(pool, chain("once", 15))
    assert len(pool.match(chain("new", 10))) == 10
    assert len(pool.match(chain("old", 10))) == 5  # its end went first


def test_only_another_user_makes_a_block_worth_more() -> None:
    pool = BlockPool(30)
    for _ in range(5):
        use(pool, chain("mine", 10), again=False)
    use(pool, chain("other", 10))
    use(pool, chain("once", 15))
    assert len(pool.match(chain("mine", 10))) == 5
    assert len(pool.match(chain("other", 10))) == 10


def test_new_content_starts_on_probation() -> None:
    queue = EvictionQueue(4, protected_share=1.0)
    queue.used_again(0)
    queue.renamed(0)
    queue.add(0)
    queue.used_again(1)
    queue.add(1)
    queue.add(2)
    assert [queue.pop(), queue.pop(), queue.pop()] == [0, 2, 1]
    assert len(queue) == 0


def test_a_preempted_sequence_does_not_protect_its_own_blocks() -> None:
    driver = Driver(num_blocks=9)
    driver.start(make_request("first", [1] * 7, max_tokens=22))
    preempted = driver.start(make_request("second", [2] * 7, max_tokens=22))
    driver.run()
    assert driver.scheduler.preemptions > 0
    assert preempted in driver.finished
    assert not any(driver.pool._evictable._again)


def test_shared_prefixes_survive_a_stream_of_long_prompts_in_the_engine() -> None:
    driver = Driver(num_blocks=60, max_model_len=400)
    rng = Random(3)
    shared = [rng.randrange(50, 90) for _ in range(8 * BLOCK)]
    for name in ("one", "two"):
        driver.start(make_request(name, [*shared, ord(name[0])], max_tokens=1))
        driver.run()
    for index in range(6):
        long = [100 + rng.randrange(90) for _ in range(180)]
        driver.start(make_request(f"long{index}", long, max_tokens=1))
        driver.run()
    key = driver.start(make_request("three", [*shared, 1], max_tokens=1))
    driver.run()
    assert driver.progress[key][0].cached_tokens == len(shared)

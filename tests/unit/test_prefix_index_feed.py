"""The index stays in step with what workers tell, whatever is lost, repeated or late."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from baton.engine.cache_log import FIRST, CacheLog
from baton.protocol.cache_events import CacheDump, CacheEvents, pack_names, short_name
from baton.protocol.hashing import chain_hashes, root_hash
from baton.router.cache_feed import ASK_AGAIN, MAX_ASKED, MAX_EARLY, CacheFeed, TooMuch
from baton.router.prefix_index import SHARDS, PrefixIndex

NAMES = chain_hashes(root_hash("test"), range(8), 1)


class Worker:
    """A log whose cache holds the first so many blocks of one chain."""

    def __init__(self, part_names: int = 2) -> None:
        self.log = CacheLog(part_names)
        self.held = 0

    def hold(self, count: int) -> None:
        changes: list[tuple[bytes, bytes | None]] = [
            (NAMES[i], NAMES[i - 1] if i else FIRST) for i in range(self.held, count)
        ]
        changes += [(NAMES[i], None) for i in reversed(range(count, self.held))]
        self.held = count
        self.log.add(changes)

    def batch(self, count: int) -> CacheEvents:
        self.hold(count)
        batch = self.log.take()
        assert batch is not None
        return batch


class Router:
    def __init__(self, *workers: str, num_blocks: int = 8) -> None:
        self.index: PrefixIndex[str] = PrefixIndex()
        self.feed = CacheFeed(self.index)
        for worker in workers:
            self.feed.join(worker, num_blocks)

    def dump(self, worker: str, log: CacheLog) -> None:
        for part in log.dump():
            self.feed.on_dump(worker, part, 0.0)

    def known(self, worker: str) -> int:
        return self.index.match(NAMES).get(worker, 0)

    def in_step(self) -> tuple[Router, Worker]:
        """With "w", which has 3 blocks at batch 1."""
        worker = Worker()
        worker.batch(3)
        self.dump("w", worker.log)
        assert self.feed.in_step("w")
        assert self.known("w") == 3
        return self, worker


def test_a_new_worker_is_asked_and_followed() -> None:
    router, worker = Router("w"), Worker()
    assert router.feed.to_ask(0.0) == ["w"]
    router.feed.on_events("w", worker.batch(5))  # waits
    assert router.known("w") == 0
    assert not router.feed.in_step("w")
    router.dump("w", worker.log)
    assert router.known("w") == 5
    assert router.feed.in_step("w")
    router.feed.on_events("w", worker.batch(2))
    assert router.known("w") == 2
    assert router.feed.to_ask(100.0) == []


def test_batches_that_came_before_the_dump_follow_on_it() -> None:
    router, worker = Router("w"), Worker()
    worker.batch(1)
    parts = list(worker.log.dump())
    router.feed.on_events("w", worker.batch(4))
    router.feed.on_events("w", worker.batch(3))
    router.feed.on_dump("w", parts[0], 0.0)
    assert router.known("w") == 3


def test_repeated_batches_change_nothing() -> None:
    router, worker = Router("w").in_step()
    more, less = worker.batch(6), worker.batch(4)
    for batch in (more, more, less, more, less, more):
        router.feed.on_events("w", batch)
        assert router.feed.in_step("w")
    assert router.known("w") == 4


def test_batches_in_another_order_wait_for_each_other() -> None:
    router, worker = Router("w").in_step()
    first, second = worker.batch(6), worker.batch(7)
    router.feed.on_events("w", second)
    assert router.known("w") == 3
    assert not router.feed.in_step("w")
    router.feed.on_events("w", first)
    assert router.known("w") == 7
    assert router.feed.in_step("w")
    assert router.feed.to_ask(0.0) == []


def test_a_lost_batch_is_made_good_by_a_dump() -> None:
    router, worker = Router("w").in_step()
    worker.batch(5)
    router.feed.on_events("w", worker.batch(6))
    assert router.known("w") == 3
    assert router.feed.to_ask(0.0) == ["w"]
    parts = list(worker.log.dump())
    for part in (parts[1], parts[1], parts[0]):
        router.feed.on_dump("w", part, 0.0)
    assert router.known("w") == 3  # in use until the new one is whole
    router.feed.on_events("w", worker.batch(8))
    router.feed.on_dump("w", parts[2], 0.0)
    assert router.known("w") == 8
    assert router.feed.in_step("w")
    router.feed.on_events("w", worker.batch(1))
    assert router.known("w") == 1


def test_a_dump_from_before_the_gap_does_not_hide_it() -> None:
    router, worker = Router("w").in_step()
    old = list(worker.log.dump())
    router.feed.on_events("w", worker.batch(4))
    worker.batch(5)
    router.feed.on_events("w", worker.batch(6))
    for part in old:
        router.feed.on_dump("w", part, 0.0)
    assert not router.feed.in_step("w")
    assert router.known("w") == 4
    router.dump("w", worker.log)
    assert router.known("w") == 6


def test_parts_of_different_dumps_are_not_mixed() -> None:
    """The same batch, yet another order, so other blocks in each part."""
    def dump(number: int, *parts: list[int]) -> list[CacheDump]:
        return [
            CacheDump(dump=number, sequence=1, part=i, parts=len(parts),
                      names=pack_names(short_name(NAMES[n]) for n in names))
            for i, names in enumerate(parts)
        ]

    router = Router("w")
    first, second = dump(1, [0, 1], [2, 3]), dump(2, [2, 3], [0, 1])
    for part in (first[0], second[1], first[1]):
        router.feed.on_dump("w", part, 0.0)
    assert router.known("w") == 0
    router.feed.on_dump("w", second[0], 0.0)
    assert router.known("w") == 4


def test_a_dump_that_never_ends_is_asked_for_again() -> None:
    router, worker = Router("w"), Worker()
    worker.batch(8)
    assert router.feed.to_ask(10.0) == ["w"]
    assert router.feed.to_ask(10.0 + ASK_AGAIN / 2) == []
    router.feed.on_dump("w", next(worker.log.dump()), 11.0)
    assert router.feed.to_ask(11.0 + ASK_AGAIN - 0.1) == []  # it was heard of
    assert router.feed.to_ask(11.0 + ASK_AGAIN) == ["w"]
    router.dump("w", worker.log)
    assert router.known("w") == 8


def test_few_are_asked_at_a_time_and_the_silent_do_not_hold_up_the_others() -> None:
    names = [f"w{i}" for i in range(3 * MAX_ASKED)]
    router = Router(*names)
    asked = [router.feed.to_ask(ASK_AGAIN * turn) for turn in range(3)]
    assert [len(group) for group in asked] == [MAX_ASKED] * 3
    assert sorted(name for group in asked for name in group) == sorted(names)
    router.dump(asked[2][0], Worker().log)
    assert len(router.feed.to_ask(ASK_AGAIN * 2.5)) == 1  # one place became free


def test_waiting_batches_are_bounded_and_a_later_gap_shows() -> None:
    router, worker = Router("w").in_step()
    dump = list(worker.log.dump())
    worker.batch(4)
    for i in range(MAX_EARLY + 10):
        router.feed.on_events("w", worker.batch(5 + i % 2))
    assert len(router.feed._feeds["w"].early) == MAX_EARLY
    for part in dump:
        router.feed.on_dump("w", part, 0.0)
    assert not router.feed.in_step("w")
    router.dump("w", worker.log)
    assert router.feed.in_step("w")
    assert router.known("w") == worker.held


def test_a_lost_worker_has_nothing_and_leaves_nothing() -> None:
    router, worker = Router("w").in_step()
    worker.batch(5)
    router.feed.on_events("w", worker.batch(6))
    router.feed.on_dump("w", next(worker.log.dump()), 0.0)  # half way into a dump
    router.feed.leave("w")
    assert router.known("w") == 0
    assert router.feed.to_ask(0.0) == []
    router.feed.on_events("w", worker.batch(7))
    router.dump("w", worker.log)
    assert router.known("w") == 0
    router.index.tidy(SHARDS)
    assert len(router.index) == 0
    assert not router.index.tidy()


def test_one_that_joins_again_begins_anew() -> None:
    router, worker = Router("w").in_step()
    router.feed.join("w", 8)
    assert router.known("w") == 0
    assert router.feed.to_ask(0.0) == ["w"]
    router.dump("w", worker.log)
    assert router.known("w") == 3


@pytest.mark.parametrize("how", ["batch", "dump", "parts"])
def test_more_than_a_pool_can_hold_is_not_kept(how: str) -> None:
    router, worker = Router("w", num_blocks=4).in_step()
    if how == "batch":
        batch = worker.batch(5)
        with pytest.raises(TooMuch, match="5 cached blocks and has a pool of 4"):
            router.feed.on_events("w", batch)
    else:
        worker.batch(4)
        router.feed.on_events("w", worker.batch(5))  # a gap
        if how == "dump":
            with pytest.raises(TooMuch, match="tells of"):
                router.dump("w", worker.log)
        else:
            with pytest.raises(TooMuch, match="tells of"):
                router.feed.on_dump(
                    "w", CacheDump(dump=9, sequence=9, part=0, parts=1 << 40, names=b""), 0.0
                )
    assert router.known("w") == 0
    assert router.feed.to_ask(1e9) == []
    router.index.tidy(SHARDS)
    assert len(router.index) == 0


TREE = [None, *((i - 1) // 2 for i in range(1, 15))]
TREE_NAMES: list[bytes] = []
for parent in TREE:
    TREE_NAMES.append(root_hash("tree", "" if parent is None else TREE_NAMES[parent].hex(),
                                str(len(TREE_NAMES))))
PATHS = [[TREE_NAMES[i] for i in path] for path in
         ([0, 1, 3, 7], [0, 1, 3, 8], [0, 1, 4, 9], [0, 1, 4, 10],
          [0, 2, 5, 11], [0, 2, 5, 12], [0, 2, 6, 13], [0, 2, 6, 14])]
WORKERS = st.integers(0, 2)


class Life:
    """One life of a worker, and what is under way from it."""

    def __init__(self) -> None:
        self.log = CacheLog(part_names=3)
        self.pool: set[bytes] = set()
        self.records: list[CacheEvents | CacheDump] = []

    def has(self, path: list[bytes]) -> int:
        for count, name in enumerate(path):
            if name not in self.pool:
                return count
        return len(path)


class FeedMachine(RuleBasedStateMachine):
    """Three workers with changing caches that restart, behind a network that does what it likes;
    lives are told apart by their epoch, as the sessions do."""

    @initialize()
    def setup(self) -> None:
        self.index: PrefixIndex[tuple[int, int]] = PrefixIndex()
        self.feed = CacheFeed(self.index)
        self.now = 0.0
        self.epochs = [0, 0, 0]
        self.lives = [Life(), Life(), Life()]
        self.told: dict[tuple[int, int], list[int]] = {}
        for worker in range(3):
            self.feed.join((worker, 0), 15)

    @rule(worker=WORKERS, block=st.integers(0, 14), there=st.booleans())
    def change(self, worker: int, block: int, there: bool) -> None:
        life, name, parent = self.lives[worker], TREE_NAMES[block], TREE[block]
        if there:
            life.pool.add(name)
            life.log.add([(name, FIRST if parent is None else TREE_NAMES[parent])])
        else:
            life.pool.discard(name)
            life.log.add([(name, None)])

    @rule(worker=WORKERS)
    def tell(self, worker: int) -> None:
        life = self.lives[worker]
        batch = life.log.take()
        if batch is not None:
            life.records.append(batch)

    @rule(seconds=st.sampled_from([0.0, 1.0, 3.0]))
    def ask(self, seconds: float) -> None:
        self.now += seconds
        for worker, epoch in self.feed.to_ask(self.now):
            assert self.epochs[worker] == epoch
            self.lives[worker].records.extend(self.lives[worker].log.dump())

    @rule(worker=WORKERS, place=st.integers(0, 30), keep=st.booleans())
    def arrive(self, worker: int, place: int, keep: bool) -> None:
        """Any record, which may come once more."""
        records = self.lives[worker].records
        if records:
            record = records[place % len(records)]
            if not keep:
                records.remove(record)
            self.deliver(worker, record)

    @rule(worker=WORKERS, place=st.integers(0, 30))
    def lose(self, worker: int, place: int) -> None:
        records = self.lives[worker].records
        if records:
            del records[place % len(records)]

    @rule(worker=WORKERS)
    def restart(self, worker: int) -> None:
        self.feed.leave((worker, self.epochs[worker]))
        self.epochs[worker] += 1
        self.lives[worker] = Life()
        self.feed.join((worker, self.epochs[worker]), 15)

    @rule(shards=st.sampled_from([1, 100, SHARDS]))
    def tidy(self, shards: int) -> None:
        self.index.tidy(shards)

    @rule()
    def quiet(self) -> None:
        """The network behaves, and every worker has news: soon everything is known exactly."""
        for worker, life in enumerate(self.lives):
            self.tell(worker)
            self.change(worker, 0, TREE_NAMES[0] not in life.pool)
            self.tell(worker)
        for _ in range(3):
            for worker, life in enumerate(self.lives):
                records, life.records = life.records, []
                for record in records:
                    self.deliver(worker, record)
            self.ask(ASK_AGAIN)
        for worker, life in enumerate(self.lives):
            assert self.feed.in_step(self.key(worker))
            assert self.is_current(worker)
            for path in PATHS:
                assert self.index.match(path).get(self.key(worker), 0) == life.has(path)

    @invariant()
    def in_step_means_exact(self) -> None:
        for worker, life in enumerate(self.lives):
            key = self.key(worker)
            if self.feed.in_step(key) and self.is_current(worker):
                changed = set(life.log._pending)
                for path in PATHS:
                    if not changed & set(path):
                        assert self.index.match(path).get(key, 0) == life.has(path)

    def is_current(self, worker: int) -> bool:
        return self.feed._feeds[self.key(worker)].sequence == self.lives[worker].log.sequence

    def key(self, worker: int) -> tuple[int, int]:
        return (worker, self.epochs[worker])

    def deliver(self, worker: int, record: CacheEvents | CacheDump) -> None:
        if isinstance(record, CacheDump):
            self.feed.on_dump(self.key(worker), record, self.now)
        else:
            self.feed.on_events(self.key(worker), record)


TestFeedMachine = FeedMachine.TestCase
TestFeedMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)

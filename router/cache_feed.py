"""Keeps the prefix index in step with what workers tell of their caches. Pure: time is passed in.

Of each worker:

    join --> UNKNOWN --dump complete--> IN STEP --a batch is missing--> BEHIND --dump complete-.
                                           ^                              |                    |
                                           +----- the missing one came ---+                    |
                                           +---------------------------------------------------+
    told more than its pool can hold: IGNORED; left: forgotten

BEHIND, what was known stays in use: it is nearly right. Whoever is UNKNOWN or BEHIND is asked for a
dump, few at a time, since each costs some milliseconds, and asked again when nothing comes. Batches
that arrive meanwhile wait for it. A dump fills a slot of its own and replaces the old content when
its last part is there, so parts may be lost, repeated or mixed with those of other dumps.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from baton.protocol.cache_events import CacheDump, CacheEvents, num_names, unpack_names
from baton.router.prefix_index import PrefixIndex

ASK_AGAIN = 2.0
"""Seconds without a part of a dump after which a worker is asked once more."""

MAX_ASKED = 4
"""Workers that are asked at a time."""

MAX_EARLY = 256
"""Batches of one worker that wait for an earlier one."""

W = TypeVar("W", bound=Hashable)


class TooMuch(ValueError):
    """A worker tells of more blocks than its pool has; nothing of it is believed any more."""


@dataclass(slots=True)
class _Dump:
    number: int
    sequence: int
    slot: int
    missing: set[int]


@dataclass(slots=True)
class _Feed:
    capacity: int
    """Blocks in the worker's pool."""
    slot: int | None = None
    """What is shown of it; None while UNKNOWN."""
    sequence: int = 0
    """The last batch in it."""
    behind: bool = True
    early: dict[int, CacheEvents] = field(default_factory=dict)
    dump: _Dump | None = None
    asked: float | None = None
    """When, or when the last part came."""


class CacheFeed(Generic[W]):
    """`W` names one life of a worker."""

    def __init__(self, index: PrefixIndex[W]) -> None:
        self._index = index
        self._feeds: dict[W, _Feed] = {}
        self._behind: dict[W, None] = {}
        """UNKNOWN and BEHIND, in the order in which they became so."""

    def join(self, worker: W, num_blocks: int) -> None:
        """A worker that speaks of its cache, with the size of its pool."""
        self.leave(worker)
        self._feeds[worker] = _Feed(num_blocks)
        self._behind[worker] = None

    def leave(self, worker: W) -> None:
        """It is gone. Idempotent."""
        feed = self._feeds.pop(worker, None)
        self._behind.pop(worker, None)
        if feed is not None:
            self._drop_content(feed)

    def __contains__(self, worker: W) -> bool:
        """Whether it joined, and is believed."""
        return worker in self._feeds

    def in_step(self, worker: W) -> bool:
        """Whether the index says exactly what the worker last told."""
        feed = self._feeds.get(worker)
        return feed is not None and not feed.behind

    def to_ask(self, now: float) -> list[W]:
        """Workers to send a ResendCache now; they count as asked."""
        asked = 0
        due: list[W] = []
        for worker in self._behind:
            feed = self._feeds[worker]
            if feed.asked is not None and now < feed.asked + ASK_AGAIN:
                asked += 1
            else:
                due.append(worker)
        due = due[: max(0, MAX_ASKED - asked)]
        for worker in due:
            self._feeds[worker].asked = now
            # The next ones first, should it never answer.
            self._behind[worker] = self._behind.pop(worker)
        return due

    def on_events(self, worker: W, batch: CacheEvents) -> None:
        """Raises TooMuch. Of a worker that has not joined, or left, it is nothing."""
        feed = self._feeds.get(worker)
        if feed is None or (feed.slot is not None and batch.sequence <= feed.sequence):
            return
        feed.early[batch.sequence] = batch
        if len(feed.early) > MAX_EARLY:
            del feed.early[min(feed.early)]
        self._catch_up(worker, feed)

    def on_dump(self, worker: W, part: CacheDump, now: float) -> None:
        """Raises TooMuch."""
        feed = self._feeds.get(worker)
        if feed is None or not feed.behind:
            return
        if feed.slot is not None and part.sequence <= feed.sequence:
            return  # from before what is missing
        feed.asked = now
        if feed.dump is None or feed.dump.number < part.dump:
            self._check(worker, feed, part.parts - 1)
            self._drop_dump(feed)
            missing = set(range(part.parts))
            feed.dump = _Dump(part.dump, part.sequence, self._index.open(), missing)
        dump = feed.dump
        if dump.number > part.dump or part.part not in dump.missing:
            return
        dump.missing.remove(part.part)
        self._check(worker, feed, self._index.size(dump.slot) + num_names(part.names))
        self._index.store(dump.slot, unpack_names(part.names))
        if not dump.missing:
            self._replace(worker, feed, dump)

    # -- inside ------------------------------------------------------------------------------

    def _replace(self, worker: W, feed: _Feed, dump: _Dump) -> None:
        if feed.slot is not None:
            self._index.close(feed.slot)
        feed.slot, feed.sequence, feed.dump = dump.slot, dump.sequence, None
        feed.early = {n: batch for n, batch in feed.early.items() if n > dump.sequence}
        self._index.show(feed.slot, worker)
        self._catch_up(worker, feed)

    def _catch_up(self, worker: W, feed: _Feed) -> None:
        """Apply the batches that follow on what there is."""
        if feed.slot is None:
            return
        while (batch := feed.early.pop(feed.sequence + 1, None)) is not None:
            feed.sequence += 1
            self._index.evict(feed.slot, unpack_names(batch.evicted))
            self._check(worker, feed, self._index.size(feed.slot) + num_names(batch.stored))
            self._index.store(feed.slot, unpack_names(batch.stored))
        feed.behind = bool(feed.early)
        if feed.behind:
            self._behind.setdefault(worker)
        else:
            feed.asked = None
            self._behind.pop(worker, None)
            self._drop_dump(feed)

    def _check(self, worker: W, feed: _Feed, size: int) -> None:
        if size <= feed.capacity:
            return
        self.leave(worker)
        raise TooMuch(f"{worker} tells of {size} cached blocks and has a pool of {feed.capacity}")

    def _drop_content(self, feed: _Feed) -> None:
        self._drop_dump(feed)
        if feed.slot is not None:
            self._index.close(feed.slot)
            feed.slot = None

    def _drop_dump(self, feed: _Feed) -> None:
        if feed.dump is not None:
            self._index.close(feed.dump.slot)
            feed.dump = None

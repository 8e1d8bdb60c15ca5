"""Who has which blocks in its cache, as well as a router can know. Pure: time is passed in.

    what a worker tells     exact, as of its last batch              prefix_index, cache_feed
    what it is known to     from when this router hears of it until  here: slots of the same index
    have got since          the worker has surely told it itself

Of a worker that tells nothing (version 1 of the protocol) nothing is known: it cannot lend either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from baton.protocol.cache_events import CacheDump, CacheEvents, short_name, unpack_names
from baton.protocol.ids import Identity
from baton.router.cache_feed import CacheFeed
from baton.router.prefix_index import PrefixIndex

GENERATION = 1.0
"""Seconds. What is remembered is kept for one to two of these; a worker tells sooner."""

SWEPT_AT_A_TICK = 4
"""Shards of the index."""


@dataclass(slots=True)
class _Recent:
    """What a worker got in one generation."""

    slot: int
    names: list[int] = field(default_factory=list)


class KnownPrefixes:
    """Of all workers that tell."""

    def __init__(self) -> None:
        self._index: PrefixIndex[Identity] = PrefixIndex()
        self._feed = CacheFeed(self._index)
        self._recent: dict[Identity, _Recent] = {}
        self._before: dict[Identity, _Recent] = {}
        """The generation before."""
        self._turned = float("-inf")

    # -- workers -----------------------------------------------------------------------------

    def join(self, worker: Identity, num_blocks: int) -> None:
        """One that tells of its cache, with the size of its pool."""
        self._forget_recent(worker)
        self._feed.join(worker, num_blocks)

    def leave(self, worker: Identity) -> None:
        """Idempotent."""
        self._forget_recent(worker)
        self._feed.leave(worker)

    def on_record(self, worker: Identity, record: CacheEvents | CacheDump, now: float) -> None:
        """Raises TooMuch, a ValueError, for what cannot be; nothing of the worker is believed
        then."""
        if isinstance(record, CacheDump):
            self._feed.on_dump(worker, record, now)
            return
        self._feed.on_events(worker, record)
        for generation in (self._recent, self._before):
            recent = generation.get(worker)
            if recent is not None:
                self._index.evict(recent.slot, unpack_names(record.evicted))

    def tick(self, now: float) -> list[Identity]:
        """To be called every now and then, some times a second. Workers to send a ResendCache."""
        if now >= self._turned + GENERATION:
            self._turned = now
            for recent in self._before.values():
                self._drop(recent)
            self._before, self._recent = self._recent, {}
        self._index.tidy(SWEPT_AT_A_TICK)
        return self._feed.to_ask(now)

    # -- blocks ------------------------------------------------------------------------------

    def remember(self, worker: Identity, chain: Sequence[bytes]) -> None:
        """It has the KV of all these blocks now."""
        if worker not in self._feed:
            return
        recent = self._recent.get(worker)
        if recent is None:
            recent = self._recent[worker] = _Recent(self._index.open())
            self._index.show(recent.slot, worker)
        names = [short_name(name) for name in chain]
        self._index.store(recent.slot, names)
        recent.names.extend(names)

    def held(self, chain: Sequence[bytes]) -> dict[Identity, int]:
        """How many leading blocks of a chain each worker has, those that have most first. Those
        that have none are not named; some that are named may have died."""
        return self._index.match(chain)

    # -- inside ------------------------------------------------------------------------------

    def _forget_recent(self, worker: Identity) -> None:
        for generation in (self._recent, self._before):
            recent = generation.pop(worker, None)
            if recent is not None:
                self._drop(recent)

    def _drop(self, recent: _Recent) -> None:
        self._index.evict(recent.slot, recent.names)
        self._index.close(recent.slot)

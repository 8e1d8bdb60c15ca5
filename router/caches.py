"""The workers' caches, followed over their sessions: who joins, tells and leaves."""

from __future__ import annotations

import logging

from baton.protocol.cache_events import CacheDump, CacheEvents, ResendCache
from baton.router.cache_feed import TooMuch
from baton.router.known_prefixes import KnownPrefixes
from baton.router.registry import Registry, Worker

log = logging.getLogger(__name__)


class Caches:
    """`now` is the loop's clock."""

    def __init__(self, registry: Registry) -> None:
        self.known = KnownPrefixes()
        self._registry = registry

    def worker_joined(self, worker: Worker) -> None:
        """It is asked at the next tick."""
        if worker.session.speaks(CacheEvents):
            self.known.join(worker.identity, worker.hello.num_blocks)

    def worker_lost(self, worker: Worker) -> None:
        """Idempotent."""
        self.known.leave(worker.identity)

    def on_record(self, worker: Worker, record: CacheEvents | CacheDump, now: float) -> None:
        try:
            self.known.on_record(worker.identity, record, now)
        except TooMuch as error:
            log.error("the cache of worker %s is not followed: %s", worker.identity.node_id, error)
        self.tick(now)

    def tick(self, now: float) -> None:
        """With every heartbeat."""
        for identity in self.known.tick(now):
            worker = self._registry.get(identity)
            if worker is not None:
                worker.send(ResendCache())

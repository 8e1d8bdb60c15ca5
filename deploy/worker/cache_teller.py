"""Tells routers what the prefix cache holds: changes soon, all of it when asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from baton.engine.cache_log import CacheChange, CacheLog
from baton.protocol.cache_events import CacheDump
from baton.protocol.ids import Identity
from baton.protocol.records import Record

TELL_SECONDS = 0.1
"""From a change until routers are told; all that changes meanwhile is in one record."""


class CacheTeller:
    """Belongs to the I/O thread. `tell_all` reaches every router whose session is open."""

    def __init__(
        self,
        *,
        tell_all: Callable[[Record], None],
        tell_router: Callable[[Identity, Record], None],
    ) -> None:
        self._tell_all = tell_all
        self._tell_router = tell_router
        self._log = CacheLog()
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, changes: Sequence[CacheChange]) -> None:
        """What the engine published."""
        if not changes:
            return
        self._log.add(changes)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    def resend(self, router: Identity) -> None:
        """It asked for all of it: a part at each turn of the loop, which has better to do."""
        self._send_next(router, self._log.dump())

    def _send_next(self, router: Identity, parts: Iterator[CacheDump]) -> None:
        part = next(parts, None)
        if part is not None:
            self._tell_router(router, part)
            asyncio.get_running_loop().call_soon(self._send_next, router, parts)

    def _tell(self) -> None:
        self._timer = None
        batch = self._log.take()
        if batch is not None:
            self._tell_all(batch)

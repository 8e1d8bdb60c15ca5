"""A dispatcher that can be asked to wait until its workers have joined."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from baton.protocol.link import Session
from baton.protocol.records import WorkerHello
from baton.router.account import Account
from baton.router.dispatcher import Dispatcher
from baton.router.lanes import Lanes
from baton.router.observer import Observer
from baton.router.registry import Worker


class JoinableDispatcher(Dispatcher):
    def __init__(
        self,
        *,
        observer: Observer,
        lanes: Lanes | None = None,
        max_queue: int,
        router_id: str = "",
        journal: Callable[[Account], None] | None = None,
        strict_roles: bool = False,
    ) -> None:
        super().__init__(
            observer=observer,
            lanes=lanes,
            max_queue=max_queue,
            router_id=router_id,
            journal=journal,
            strict_roles=strict_roles,
        )
        self._joined = asyncio.Event()

    def worker_joined(self, hello: WorkerHello, session: Session) -> Worker:
        worker = super().worker_joined(hello, session)
        self._joined.set()
        return worker

    async def wait_for_workers(self, count: int, given_up: asyncio.Event) -> bool:
        """True once so many are here at the same time; False when `given_up` comes first."""
        giving_up = asyncio.ensure_future(given_up.wait())
        try:
            while len(self.registry) < count and not given_up.is_set():
                self._joined.clear()
                joining = asyncio.ensure_future(self._joined.wait())
                await asyncio.wait([joining, giving_up], return_when=asyncio.FIRST_COMPLETED)
                joining.cancel()
        finally:
            giving_up.cancel()
        return not given_up.is_set()

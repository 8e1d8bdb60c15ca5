"""The router's end of the workers' control sessions: hello to registry, records to dispatcher."""

from __future__ import annotations

import logging

from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity
from baton.protocol.link import LinkSettings, Listener, Session
from baton.protocol.records import Record, RouterHello, WorkerHello
from baton.router.dispatcher import Dispatcher

log = logging.getLogger(__name__)


class RouterControl:
    """Accepts workers and tells the dispatcher what they say. Owns the listener."""

    def __init__(
        self,
        identity: Identity,
        dispatcher: Dispatcher,
        *,
        settings: LinkSettings | None = None,
    ) -> None:
        self.identity = identity
        self.listener = Listener(identity, self._on_session, settings=settings)
        self._dispatcher = dispatcher

    async def bind(self, address: str) -> str:
        """Listen for workers at a ZeroMQ address; the actual one is returned. Raises
        ConfigError. May be called once."""
        return await self.listener.bind(address)

    async def close(self) -> None:
        """End all flights, then all sessions. Idempotent."""
        self._dispatcher.close()
        await self.listener.close()

    def _on_session(self, session: Session) -> Record:
        hello = session.peer_hello
        if not isinstance(hello, WorkerHello):
            raise BatonError(
                "invalid_value", f"a router is joined by workers, not by a {type(hello).__name__}"
            )
        worker = self._dispatcher.worker_joined(hello, session)
        session.on_record = lambda record: self._dispatcher.on_record(worker, record)
        session.on_lost = lambda reason: self._dispatcher.worker_lost(worker, reason)
        return RouterHello(identity=self.identity)

"""The sessions of a worker with its routers, and which attempt belongs to which of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from baton.protocol.ids import Identity, RequestKey
from baton.protocol.link import GOODBYE, NameDialer, Session
from baton.protocol.records import (
    Record,
    RouterHello,
    TokenBatch,
    TokenDelta,
    WorkerHello,
)

log = logging.getLogger(__name__)


class LinkEvents(Protocol):
    """What the worker hears from its routers."""

    def on_router_joined(self) -> None: ...

    def on_record(self, router: Identity, record: Record) -> None: ...

    def on_router_lost(self, orphans: list[RequestKey]) -> None:
        """A router is gone; these attempts were its."""


class RouterLinks:
    """Dials every router for as long as the worker lives, also all that share a name. An `Outlet`
    for the stages.

    `hello` gives our WorkerHello; `refused` hears a router's refusal, which ends the worker: no
    amount of dialling makes another model ours.
    """

    def __init__(
        self,
        identity: Identity,
        addresses: tuple[str, ...],
        hello: Callable[[], WorkerHello],
        events: LinkEvents,
        refused: Callable[[str], None],
    ) -> None:
        self._events = events
        self._sessions: dict[Identity, Session] = {}
        self._owners: dict[RequestKey, Identity] = {}
        self._dialers = [
            NameDialer(identity, address, hello, self._opened, refused) for address in addresses
        ]

    def start(self) -> None:
        for dialer in self._dialers:
            dialer.start()

    @property
    def connected(self) -> int:
        return len(self._sessions)

    @property
    def routers(self) -> tuple[Identity, ...]:
        """Those in session with us."""
        return tuple(self._sessions)

    @property
    def owned(self) -> int:
        """Attempts that some router still waits to hear of."""
        return len(self._owners)

    def own(self, key: RequestKey, router: Identity) -> None:
        """The attempt came from this router, and words about it go there."""
        self._owners[key] = router

    def tell(self, key: RequestKey, record: Record) -> None:
        router = self._owners.get(key)
        if router is not None:
            self._send(router, record)

    def forget(self, key: RequestKey) -> None:
        self._owners.pop(key, None)

    def tell_router(self, router: Identity, record: Record) -> None:
        """Nothing if it is gone."""
        self._send(router, record)

    def tell_all(self, record: Record) -> None:
        for router in list(self._sessions):
            self._send(router, record)

    def publish(self, deltas: list[TokenDelta]) -> None:
        """One message per router with all tokens of a step."""
        batches: dict[Identity, list[TokenDelta]] = {}
        for delta in deltas:
            router = self._owners.get(delta.key)
            if router is not None:
                batches.setdefault(router, []).append(delta)
        for router, batch in batches.items():
            self._send(router, TokenBatch(deltas=tuple(batch)))

    async def close(self, reason: str = GOODBYE) -> None:
        """`reason`: whoever fails says so, or its requests would be given to others that they make
        fail as well."""
        for dialer in self._dialers:
            await dialer.close(reason)

    def _send(self, router: Identity, record: Record) -> None:
        session = self._sessions.get(router)
        if session is not None and session.is_open and session.speaks(type(record)):
            session.send(record)

    def _opened(self, session: Session) -> None:
        hello = session.peer_hello
        if not isinstance(hello, RouterHello):
            log.error("%s is not a router", hello)
            session.close("not a router")
            return
        router = hello.identity
        log.info("joined router %s", router.node_id)
        previous = self._sessions.get(router)
        if previous is not None:  # by another of its addresses; the router has given it up
            self._lost(router, previous, "dialed again")
        self._sessions[router] = session
        session.on_lost = lambda reason: self._lost(router, session, reason)
        session.on_record = lambda record: self._events.on_record(router, record)
        self._events.on_router_joined()

    def _lost(self, router: Identity, session: Session, reason: str) -> None:
        if self._sessions.get(router) is not session:
            return
        log.warning("router %s lost: %s", router.node_id, reason)
        del self._sessions[router]
        orphans = [key for key, owner in self._owners.items() if owner == router]
        self._events.on_router_lost(orphans)
        for key in orphans:
            self._owners.pop(key, None)

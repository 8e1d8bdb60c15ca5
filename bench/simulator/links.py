"""A simulated worker's sessions with routers, in the place of `RouterLinks`."""

from __future__ import annotations

from collections.abc import Sequence

from baton.bench.simulator.ahead import Ran
from baton.bench.simulator.session import SimulatedSession
from baton.engine.commands import Progress
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import Record, TokenBatch, TokenDelta


class SimulatedLinks:
    def __init__(self) -> None:
        self._sessions: dict[Identity, SimulatedSession] = {}
        self._owners: dict[RequestKey, SimulatedSession] = {}

    @property
    def routers(self) -> tuple[Identity, ...]:
        return tuple(self._sessions)

    @property
    def owned(self) -> int:
        """Attempts that some router still waits to hear of."""
        return len(self._owners)

    def opened(self, session: SimulatedSession) -> None:
        self._sessions[session.router] = session

    def own(self, key: RequestKey, router: Identity) -> None:
        self._owners[key] = self._sessions[router]

    def tell(self, key: RequestKey, record: Record) -> None:
        session = self._owners.get(key)
        if session is not None:
            session.tell(record)

    def forget(self, key: RequestKey) -> None:
        self._owners.pop(key, None)

    def tell_router(self, router: Identity, record: Record) -> None:
        session = self._sessions.get(router)
        if session is not None:
            session.tell(record)

    def tell_all(self, record: Record) -> None:
        for session in self._sessions.values():
            session.tell(record)

    def publish(self, deltas: list[TokenDelta]) -> None:
        batches: dict[SimulatedSession, list[TokenDelta]] = {}
        owners = self._owners
        for delta in deltas:
            session = owners.get(delta.key)
            if session is None:
                continue
            if session in batches:
                batches[session].append(delta)
            else:
                batches[session] = [delta]
        for session, batch in batches.items():
            session.tell(TokenBatch(deltas=tuple(batch)))

    def publish_tokens(self, events: Sequence[Progress]) -> None:
        """What the worker would publish of a step that only brought ordinary tokens."""
        batches: dict[SimulatedSession, list[TokenDelta]] = {}
        owners = self._owners
        for event in events:
            session = owners.get(event.key)
            if session is None or not event.tokens:
                continue
            if event.cached_tokens is None and event.phases is None:
                delta = TokenDelta(key=event.key, position=event.position, tokens=event.tokens)
            else:
                delta = TokenDelta(
                    key=event.key,
                    position=event.position,
                    tokens=event.tokens,
                    cached_tokens=event.cached_tokens,
                    phases=event.phases,
                )
            if session in batches:
                batches[session].append(delta)
            else:
                batches[session] = [delta]
        for session, batch in batches.items():
            session.tell(TokenBatch(deltas=tuple(batch)))

    def publish_run(self, ran: Ran) -> None:
        """Tokens of many steps."""
        owners = [self._owners.get(key) for key in ran.keys]
        for session in dict.fromkeys(owners):
            if session is not None:
                session.tell_run(ran.of([owner is session for owner in owners]))

    def hear_out(self) -> None:
        """Routers have heard of all that was told and has arrived by now."""
        for session in self._sessions.values():
            session.hear_out()

    def die(self) -> None:
        """Nothing is told any more; routers have not noticed yet."""
        for session in self._sessions.values():
            session.fall_silent()
        self._sessions.clear()
        self._owners.clear()

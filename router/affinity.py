"""Which workers served a session last: a session is what a client says that requests belong to
(`prompt_cache_key`, a header). Only a tie-breaker, so it may forget. Pure."""

from __future__ import annotations

from baton.protocol.ids import Identity

MOST_SESSIONS = 10_000


class Sessions:
    """The ones not used for longest are forgotten first. The empty name is no session."""

    def __init__(self, most: int = MOST_SESSIONS) -> None:
        self._most = most
        self._workers: dict[str, tuple[Identity, ...]] = {}

    def workers(self, session: str) -> tuple[Identity, ...]:
        return self._workers.get(session, ()) if session else ()

    def served(self, session: str, decode: Identity, prefill: Identity | None) -> None:
        if not session:
            return
        self._workers.pop(session, None)
        self._workers[session] = (decode,) if prefill is None else (decode, prefill)
        if len(self._workers) > self._most:
            del self._workers[next(iter(self._workers))]

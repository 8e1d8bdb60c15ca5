"""The control session between a simulated worker and a router: in order, after a fixed latency,
and over when either end says so. What the router uses of `baton.protocol.link.Session`."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from baton.bench.simulator.clock import SimulatedLoop
from baton.protocol.ids import Identity
from baton.protocol.link import LossCause, Session
from baton.protocol.records import Record
from baton.router.dispatcher import Dispatcher
from baton.router.registry import Worker

LATENCY = 0.3e-3
"""Seconds that a record takes, one way, packing and waking included."""


class SimulatedSession:
    """Both ends. `deliver` is the worker's; the router's are the dispatcher's methods."""

    def __init__(
        self,
        loop: SimulatedLoop,
        router: Identity,
        dispatcher: Dispatcher,
        deliver: Callable[[SimulatedSession, Record], None],
    ) -> None:
        self.router = router
        self.worker: Worker | None = None
        """The router's entry, from the time it joined."""
        self.watch: Callable[[Record], None] = lambda record: None
        """Sees each record that reached the router, after it."""
        self._loop = loop
        self._dispatcher = dispatcher
        self._deliver = deliver
        self._sent = 0
        self._arrived = 0
        self._lost: str | None = None
        self._cause: LossCause | None = None
        self._heard = loop.time()

    def as_session(self) -> Session:
        return cast(Session, self)

    # -- the router's end --------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._lost is None

    @property
    def cause(self) -> LossCause | None:
        return self._cause

    @property
    def heard(self) -> float:
        return self._heard

    def speaks(self, kind: type[Record]) -> bool:
        return True

    def has_acknowledged(self, number: int) -> bool:
        return number <= self._arrived

    def was_handed_out(self, number: int) -> bool:
        return number <= self._sent

    def send(self, record: Record) -> int:
        self._sent += 1
        self._loop.at(self._loop.time() + LATENCY, self._to_worker, record)
        return self._sent

    def close(self, reason: str = "bye") -> None:
        self.lose(reason, LossCause.HERE)

    def lose(self, reason: str, cause: LossCause) -> None:
        """The router hears of it at once; what is under way goes nowhere."""
        if self._lost is not None:
            return
        self._lost, self._cause = reason, cause
        if self.worker is not None:
            self._loop.call_soon(self._dispatcher.worker_lost, self.worker, reason)

    # -- the worker's end --------------------------------------------------------------------

    def tell(self, record: Record) -> None:
        if self._lost is None:
            self._loop.at(self._loop.time() + LATENCY, self._to_router, record)

    # -- on the way --------------------------------------------------------------------------

    def _to_worker(self, record: Record) -> None:
        if self._lost is None:
            self._arrived += 1
            self._deliver(self, record)

    def _to_router(self, record: Record) -> None:
        if self._lost is None and self.worker is not None:
            self._heard = self._loop.time()
            self._dispatcher.on_record(self.worker, record)
            self.watch(record)

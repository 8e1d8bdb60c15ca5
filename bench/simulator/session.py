"""The control session between a simulated worker and a router: in order, after a fixed latency,
and over when either end says so. What the router uses of `baton.protocol.link.Session`."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import cast

from baton.bench.simulator.ahead import Ran
from baton.bench.simulator.clock import SimulatedLoop
from baton.protocol.ids import Identity
from baton.protocol.link import LossCause, Session
from baton.protocol.records import Record, TokenBatch, TokenDelta
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.registry import Worker
from baton.router.vitals import STRETCH

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
        self.watch_run: Callable[[Ran, list[float], int], None] = lambda ran, times, end: None
        """Sees tokens of many steps that reached the router: those from `ran.told` to `end`, with
        the times at which they did."""
        self.flight_of: Callable[[str], Flight | None] = lambda request_id: None
        """Of a request that has not ended."""
        self._runs: deque[tuple[Ran, list[float]]] = deque()
        """On their way, with the times at which they arrive."""
        self._loop = loop
        self._dispatcher = dispatcher
        self._deliver = deliver
        self._sent = 0
        self._arrived = 0
        self._deaf = False
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

    def fall_silent(self) -> None:
        """The worker's process is gone, and the router has not noticed yet."""
        self._deaf = True

    def tell(self, record: Record) -> None:
        if self._lost is None:
            self._loop.at(self._loop.time() + LATENCY, self._to_router, record)

    def tell_run(self, ran: Ran) -> None:
        """Tokens of many steps, each of which leaves at its time."""
        if self._lost is None:
            self._runs.append((ran, [time + LATENCY for time in ran.times]))

    # -- on the way --------------------------------------------------------------------------

    def hear_out(self) -> None:
        """The router has what has arrived by now of tokens that were told in a run."""
        now, runs = self._loop.time(), self._runs
        while runs:
            ran, times = runs[0]
            end = bisect_right(times, now, ran.told)
            if ran.fresh and end > ran.told == 0:
                self._hear_run(ran, times, 1)
            if end > ran.told:
                self._hear_run(ran, times, end)
            if end < len(times):
                return
            runs.popleft()

    def _hear_run(self, ran: Ran, times: list[float], end: int) -> None:
        begin = ran.told
        if self._lost is None and self.worker is not None:
            pieces = self._pieces(ran, begin, end)
            for stop in sorted(pieces):
                self._heard = times[stop - 1]
                batch = TokenBatch(deltas=tuple(pieces[stop]))
                self._loop.run_as_of(
                    times[stop - 1], self._dispatcher.on_record, self.worker, batch
                )
            self.watch_run(ran, times, end)
        ran.told = end

    def _pieces(self, ran: Ran, begin: int, end: int) -> dict[int, list[TokenDelta]]:
        """By the step after which they are told. The router looks at every STRETCH-th token of a
        request: what it sees of a worker must not depend on how much it is told at once."""
        pieces: dict[int, list[TokenDelta]] = {end: []}
        for key, position, tokens in zip(ran.keys, ran.positions, ran.tokens, strict=True):
            flight = self.flight_of(key.request_id)
            if flight is None:
                continue
            first, had = begin, flight.dispatches[-1].tokens if flight.dispatches else 0
            stop = begin + STRETCH - had % STRETCH
            while first < end:
                last = stop if stop < end else end
                delta = TokenDelta(
                    key=key, position=position + first, tokens=tuple(tokens[first:last])
                )
                if last in pieces:
                    pieces[last].append(delta)
                else:
                    pieces[last] = [delta]
                first, stop = last, stop + STRETCH
        return pieces

    def _to_worker(self, record: Record) -> None:
        if self._lost is None and not self._deaf:
            self._arrived += 1
            self._deliver(self, record)

    def _to_router(self, record: Record) -> None:
        if self._lost is None and self.worker is not None:
            if self._runs:
                self.hear_out()
            self._heard = self._loop.time()
            self._dispatcher.on_record(self.worker, record)
            self.watch(record)

"""The clients of a simulated cluster: requests arrive at their times, whatever became of others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from baton.bench.simulator.ahead import Ran
from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.outcome import Gaps, Outcome
from baton.bench.workloads.arrival import Arrival, request_of
from baton.protocol.errors import BatonError
from baton.protocol.records import Record, TokenBatch
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight

_LOOK_SECONDS = 1.0
"""Between looks for requests that ended without a last token."""


@dataclass(slots=True)
class _Live:
    arrival: Arrival
    flight: Flight
    prompt: int
    counts: bool
    """Its gaps do."""
    last: float | None = None
    longest: float = 0.0
    cached: int = 0


class Clients:
    """`arrivals` in the order of their times. Of each, `outcomes` gets one entry when it ends."""

    def __init__(
        self,
        loop: SimulatedLoop,
        dispatchers: list[Dispatcher],
        arrivals: Iterator[Arrival],
        count: tuple[float, float] = (-math.inf, math.inf),
    ) -> None:
        """`gaps` are those of requests that arrive within `count`, as its seconds."""
        self.outcomes: list[Outcome] = []
        self.gaps = Gaps()
        self._count = count
        self._loop = loop
        self._dispatchers = dispatchers
        self._arrivals = arrivals
        self._live: dict[str, _Live] = {}
        self._number = 0
        self._done = False
        loop.at(loop.time(), self._next)
        loop.at(loop.time() + _LOOK_SECONDS, self._look)

    @property
    def finished(self) -> bool:
        """All have arrived and ended."""
        return self._done and not self._live

    def flight_of(self, request_id: str) -> Flight | None:
        """None when it has ended."""
        live = self._live.get(request_id)
        return None if live is None or live.flight.ended else live.flight

    def watch(self, record: Record) -> None:
        """A record of a worker that the router has taken in just now."""
        if not isinstance(record, TokenBatch):
            return
        now = self._loop.time()
        usual, count = 0.0, 0  # nearly all of a batch had their last token at the same time
        lives = self._live
        for delta in record.deltas:
            live = lives.get(delta.key.request_id)
            if live is None:
                continue
            last = live.last
            if last is not None:
                gap = now - last
                if gap != usual:
                    if count:
                        self.gaps.add(usual, count)
                    usual, count = gap, 0
                count += live.counts
                if gap > live.longest:
                    live.longest = gap
            elif delta.cached_tokens:
                live.cached = delta.cached_tokens
            live.last = now
            if delta.finish_reason is not None and live.flight.ended:
                self._ended(delta.key.request_id, live)
        if count:
            self.gaps.add(usual, count)

    def watch_run(self, ran: Ran, times: list[float], end: int) -> None:
        """As `watch`, of the tokens of many steps: those from `ran.told` on."""
        lives = [self._live.get(key.request_id) for key in ran.keys]
        here = [live for live in lives if live is not None]
        first, last = times[ran.told], times[end - 1]
        steps = [times[n] - times[n - 1] for n in range(ran.told + 1, end)]
        longest = max(steps, default=0.0)
        counted = sum([live.counts for live in here])
        for gap in steps if counted else ():
            self.gaps.add(gap, counted)
        for live in here:
            if live.last is not None:
                gap = first - live.last
                if live.counts:
                    self.gaps.add(gap)
                live.longest = max(live.longest, gap, longest)
            live.last = last

    def close(self) -> None:
        """What has not ended by now is given up, as outcome "unfinished"."""
        self._look()
        for name, live in list(self._live.items()):
            self._ended(name, live)

    # -- inside ------------------------------------------------------------------------------

    def _next(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is None:
            self._done = True
        else:
            self._loop.at(arrival.at, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self._number += 1
        name = f"r{self._number}"
        prompt = arrival.prompt()
        dispatcher = self._dispatchers[self._number % len(self._dispatchers)]
        try:
            flight = dispatcher.submit(request_of(arrival, name, prompt))
        except BatonError as error:
            self.outcomes.append(Outcome(
                arrival.kind, arrival.lane, arrival.at, len(prompt) // 4, error.code,
                targets=arrival.targets,
            ))
        else:
            counts = self._count[0] <= arrival.at < self._count[1]
            self._live[name] = _Live(arrival, flight, len(prompt) // 4, counts)
        self._next()

    def _look(self) -> None:
        for name, live in list(self._live.items()):
            if live.flight.ended:
                self._ended(name, live)
        if not self.finished:
            self._loop.at(self._loop.time() + _LOOK_SECONDS, self._look)

    def _ended(self, name: str, live: _Live) -> None:
        del self._live[name]
        arrival, flight = live.arrival, live.flight
        stamps = flight.stamps
        first, last = stamps.first_token, stamps.last_token
        self.outcomes.append(Outcome(
            kind=arrival.kind,
            lane=arrival.lane,
            at=arrival.at,
            prompt=live.prompt,
            end=flight.outcome or "unfinished",
            tokens=len(flight.accepted),
            ttft=None if first is None else first - stamps.arrived,
            last=None if last is None else last - stamps.arrived,
            longest_gap=live.longest,
            cached=live.cached,
            targets=arrival.targets,
        ))

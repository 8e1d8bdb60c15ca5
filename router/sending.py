"""Flights on their way out: sent at once where there is room, else in the queue, oldest first.

    submit, retry --> send --Decision--> on workers
                       |--Wait--> queue --pump: room, a pause over, a worker joined--> send

Whatever may make room calls `pump` or `pump_soon`; nothing polls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from baton.router.flight import Flight, Trouble
from baton.router.observer import Observer
from baton.router.placement import Placement
from baton.router.policy import Wait
from baton.router.queue import WaitingQueue


class Sending:
    """`on_starved(flight)` is called when there is no worker at all that it could wait for."""

    def __init__(
        self, placement: Placement, observer: Observer, on_starved: Callable[[Flight], None]
    ) -> None:
        self.queue = WaitingQueue()
        self._placement = placement
        self._observer = observer
        self._on_starved = on_starved
        self._finished_at: deque[float] = deque(maxlen=64)
        self._timer: asyncio.TimerHandle | None = None
        self._pump_at = 0.0
        """When it fires. Not asked of the handle: uvloop's for "now" does not know."""

    def send(self, flight: Flight, now: float) -> Wait | None:
        """None when it was sent."""
        decision = self._placement.place(flight, now)
        if isinstance(decision, Wait):
            return decision
        if flight.stamps.dispatched is None:
            flight.stamps.dispatched = now
            self._observer.queued("router", now - flight.stamps.arrived)
        self._observer.decision(decision.route, decision.reason)
        if flight.trouble.lost_at is not None:
            self._rescued(flight.trouble)
        return None

    def enqueue(self, flight: Flight) -> None:
        """Idempotent. The caller pumps."""
        self.queue.add(flight)
        self._observer.queue_depth("router", len(self.queue))

    def dequeue(self, flight: Flight) -> None:
        """Idempotent."""
        self.queue.remove(flight)
        self._observer.queue_depth("router", len(self.queue))

    def ended(self, flight: Flight, now: float) -> None:
        """What it held is free for others."""
        self.dequeue(flight)
        self._finished_at.append(now)
        if self.queue:
            self.pump_soon(0.0)

    def pump(self) -> None:
        """Send what can be sent, oldest first."""
        now = _now()
        for flight in self.queue:
            if flight not in self.queue:
                continue
            wait = self.send(flight, now)
            if wait is None:
                self.dequeue(flight)
                continue
            flight.trouble.waited_for = wait.value
            if wait is Wait.NO_WORKER:
                if flight.starved_since is None:
                    flight.starved_since = now
                    self._on_starved(flight)
            else:
                flight.starved_since = None
                if wait in (Wait.BUSY, Wait.THROTTLED) and not flight.excluded(now):
                    for later in self.queue:
                        later.trouble.waited_for = wait.value
                    return  # nobody overtakes it

    def pump_soon(self, delay: float) -> None:
        """Pump after so many seconds, or earlier."""
        at = _now() + delay
        if self._timer is not None:
            if self._pump_at <= at:
                return
            self._timer.cancel()
        self._pump_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._pump_now)

    def retry_after(self, now: float) -> float:
        """Seconds until the queue that is there now has been served, by the recent rate."""
        if len(self._finished_at) < 2:
            return 1.0
        rate = len(self._finished_at) / max(1e-3, now - self._finished_at[0])
        return min(60.0, max(1.0, round(len(self.queue) / rate)))

    def close(self) -> None:
        """No timer is left. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()

    def _rescued(self, trouble: Trouble) -> None:
        """Counted once the records have left, which the session does at the loop's next turn."""
        assert trouble.lost_at is not None
        lost_at, trouble.lost_at = trouble.lost_at, None
        waited_for = trouble.waited_for
        asyncio.get_running_loop().call_soon(
            lambda: self._observer.redispatched(waited_for, _now() - lost_at)
        )

    def _pump_now(self) -> None:
        self._timer = None
        self.pump()
        now = _now()
        waits = [
            until
            for flight in self.queue
            for until in flight.trouble.excluded_until.values()
            if until > now
        ]
        if waits:
            self.pump_soon(min(waits) - now)


def _now() -> float:
    return asyncio.get_running_loop().time()

"""Flights on their way out: sent at once where there is room, else in the queue, in its order.

    submit, retry --> enqueue, pump --Decision--> on workers
                        |--Wait--> queue --pump: room, a pause over, a worker joined--> send

Whatever may make room calls `pump` or `pump_soon`; nothing polls. One pump tries a few flights of
each lane at most, however many wait.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from baton.router.flight import Flight, Trouble
from baton.router.lanes import Lanes
from baton.router.observer import Observer
from baton.router.placement import Placement
from baton.router.policy import Wait
from baton.router.queue import WaitingQueue

BEHIND = {Wait.BUSY: "smaller", Wait.THROTTLED: "any", Wait.EXCLUDED: "any"}
"""Who may be sent although the one before them in their lane waits for this."""


class Sending:
    """`on_starved(flight)` is called when there is no worker at all that it could wait for;
    `work(flight)` is the predicted seconds of its prefill."""

    def __init__(
        self,
        placement: Placement,
        observer: Observer,
        on_starved: Callable[[Flight], None],
        *,
        lanes: Lanes,
        work: Callable[[Flight], float],
    ) -> None:
        self.queue: WaitingQueue[Flight] = WaitingQueue(lanes)
        self.queued_bytes = 0
        """Of the prompts in the queue."""
        self._placement = placement
        self._observer = observer
        self._on_starved = on_starved
        self._work = work
        self._starved = False
        """There was no worker at all when last somebody asked."""
        self._pumping = False
        self._wakes: list[float] = []
        """When to pump, in a heap."""
        self._timer: asyncio.TimerHandle | None = None
        self._pump_at = 0.0
        """When it fires. Not asked of the handle: uvloop's for "now" does not know."""

    def enqueue(self, flight: Flight) -> None:
        """Idempotent. The caller pumps."""
        if flight in self.queue:
            return
        now = _now()
        self.queue.add(flight, self._work(flight), now)
        self.queued_bytes += flight.num_bytes
        self._tell_depth()
        if self._starved:
            self._starve(flight, now)

    def dequeue(self, flight: Flight) -> None:
        """Idempotent."""
        if flight in self.queue:
            self.queue.remove(flight)
            self._left(flight)

    def ended(self, flight: Flight) -> None:
        """What it held is free for others."""
        self.dequeue(flight)
        if self.queue:
            self.pump_soon(0.0)

    def worker_joined(self) -> None:
        """It may take what nobody else could."""
        self.queue.resume(_now(), everyone=True)
        self.pump_soon(0.0)

    def pump(self) -> None:
        """Send what can be sent."""
        if self._pumping or not self.queue:
            return
        self._pumping = True
        now = _now()
        turn = self.queue.round(now)
        try:
            while (flight := turn.next()) is not None:
                wait = self._try(flight, now)
                if wait is None:
                    turn.placed(flight)
                    self._left(flight)
                elif wait is Wait.NO_WORKER:
                    self._nobody(now)
                    return
                elif not self._pause(flight, wait, now):
                    behind = "any" if flight.excluded(now) else BEHIND[wait]
                    turn.blocked(flight, wait.value, behind)
        finally:
            turn.end()
            self._pumping = False

    def pump_soon(self, delay: float) -> None:
        """Pump after so many seconds."""
        at = _now() + delay
        if not (self._wakes and delay <= 0 and self._wakes[0] <= at):
            heapq.heappush(self._wakes, at)
        self._arm()

    def close(self) -> None:
        """No timer is left. Idempotent."""
        self._wakes.clear()
        if self._timer is not None:
            self._timer.cancel()

    # -- inside ------------------------------------------------------------------------------

    def _try(self, flight: Flight, now: float) -> Wait | None:
        """None when it was sent."""
        trouble = flight.trouble
        waited_for = self.queue.waited_for(flight)
        if waited_for is not None:
            trouble.waited_for = waited_for
        decision = self._placement.place(flight, now)
        if decision is not Wait.NO_WORKER and self._starved:
            self._starved = False
            for starved in self.queue:
                starved.starved_since = None
        if isinstance(decision, Wait):
            trouble.waited_for = decision.value
            return decision
        if flight.stamps.dispatched is None:
            flight.stamps.dispatched = now
            self._observer.queued("router", now - flight.stamps.arrived)
        self._observer.decision(decision.route, decision.reason)
        if trouble.lost_at is not None:
            self._rescued(trouble)
        return None

    def _pause(self, flight: Flight, wait: Wait, now: float) -> bool:
        """Whether it waits for the end of pauses of its own, which is nobody else's business."""
        pauses = [at for at in flight.trouble.excluded_until.values() if at > now]
        if wait is not Wait.EXCLUDED or not pauses:
            return False
        until = min(pauses)
        self.queue.pause(flight, until)
        self.pump_soon(until - now)
        return True

    def _nobody(self, now: float) -> None:
        """There is no worker: the same for all, until one is tried with another answer."""
        if self._starved:
            return
        self._starved = True
        for flight in self.queue:
            flight.trouble.waited_for = Wait.NO_WORKER.value
            self._starve(flight, now)

    def _starve(self, flight: Flight, now: float) -> None:
        if flight.starved_since is None:
            flight.starved_since = now
            self._on_starved(flight)

    def _left(self, flight: Flight) -> None:
        """The queue."""
        self.queued_bytes -= flight.num_bytes
        self._tell_depth()

    def _tell_depth(self) -> None:
        self._observer.queue_depth("router", len(self.queue))

    def _rescued(self, trouble: Trouble) -> None:
        """Counted once the records have left, which the session does at the loop's next turn."""
        assert trouble.lost_at is not None
        lost_at, trouble.lost_at = trouble.lost_at, None
        waited_for = trouble.waited_for
        asyncio.get_running_loop().call_soon(
            lambda: self._observer.redispatched(waited_for, _now() - lost_at)
        )

    def _arm(self) -> None:
        if not self._wakes:
            return
        at = self._wakes[0]
        if self._timer is not None:
            if self._pump_at <= at:
                return
            self._timer.cancel()
        self._pump_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._pump_now)

    def _pump_now(self) -> None:
        self._timer = None
        now = _now()
        while self._wakes and self._wakes[0] <= now:
            heapq.heappop(self._wakes)
        self.pump()
        self._arm()


def _now() -> float:
    return asyncio.get_running_loop().time()

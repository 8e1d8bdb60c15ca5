"""Flights on their way out: sent at once where there is room, else in the queue, in its order.

    submit, retry --> enqueue, pump --Decision--> on workers
                        |--Wait--> queue --pump: room, a pause over, a worker joined--> send

Whatever may make room calls `pump` or `pump_soon`; nothing polls. One pump tries a few flights of
each lane at most, however many wait.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Iterator

from baton.protocol.errors import BatonError
from baton.router.admission import Admission, Prospect
from baton.router.flight import Flight, Trouble
from baton.router.forecast import Forecast
from baton.router.lanes import Lanes
from baton.router.observer import Observer
from baton.router.placement import Placement
from baton.router.policy import Wait
from baton.router.queue import WaitingQueue

BEHIND = {Wait.BUSY: "smaller", Wait.THROTTLED: "none", Wait.EXCLUDED: "any"}
"""Who may be sent although the one before them in their lane waits for this."""

MAX_QUEUE_BYTES = 256 << 20
"""Of the requests of one lane that wait."""
LEAST_WAIT = 0.001
"""Seconds until it looks again for what only time brings."""


class Sending:
    """`on_starved(flight)` is called when there is no worker at all that it could wait for.
    `max_queue` and `max_bytes`: what may wait of each lane, so that a flood of one does not shut
    out the others."""

    def __init__(
        self,
        placement: Placement,
        forecast: Forecast,
        observer: Observer,
        on_starved: Callable[[Flight], None],
        *,
        lanes: Lanes,
        max_queue: int,
        max_bytes: int = MAX_QUEUE_BYTES,
    ) -> None:
        self.queue: WaitingQueue[Flight] = WaitingQueue(lanes)
        self._placement = placement
        self._forecast = forecast
        self._observer = observer
        self._on_starved = on_starved
        self._lanes = lanes
        self._max_queue = max_queue
        self._max_bytes = max_bytes
        self._admission = Admission(lanes)
        self._depth: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._starved = False
        """There was no worker at all when last somebody asked."""
        self._pumping = False
        self._room_at = 0.0
        """When it pumps because a worker should have room by then."""
        self._wakes: list[float] = []
        """When to pump, in a heap."""
        self._timer: asyncio.TimerHandle | None = None
        self._pump_at = 0.0
        """When it fires. Not asked of the handle: uvloop's for "now" does not know."""

    def submit(self, flight: Flight) -> BatonError | None:
        """Send a new one, or let it wait. An error: it is refused, and nowhere."""
        now = _now()
        if not self.queue:
            wait = self._try(flight, now)
            if wait is None:
                self._admission.arrived(flight.lane, *self._forecast.demand(flight, now), now)
                return None
        self.enqueue(flight)
        self._admission.arrived(flight.lane, *self._forecast.demand(flight, now), now)
        self.pump()
        refusal = self._refusal(flight, now) if flight in self.queue else None
        if refusal is not None:
            self.dequeue(flight)
        return refusal

    def enqueue(self, flight: Flight) -> None:
        """Idempotent. The caller pumps."""
        if flight in self.queue:
            return
        now = _now()
        flight.work = self._forecast.work(flight, now)
        self.queue.add(flight, flight.work, now)
        self._admission.waits(flight.lane, True, now)
        self._count(flight, 1)
        if self._starved:
            self._starve(flight, now)

    def dequeue(self, flight: Flight) -> None:
        """Idempotent."""
        if flight in self.queue:
            self.queue.remove(flight)
            self._left(flight)

    def hold_back(self, flight: Flight, seconds: float) -> None:
        """Of one in the queue: it is not its turn for so long."""
        if seconds > 0:
            self.queue.pause(flight, _now() + seconds)
            self.pump_soon(seconds)

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
                    self._admission.sent(flight.work, now)
                    turn.placed(flight, _work(flight))
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
        if self.queue:
            self._pump_when_room(now)

    def pump_soon(self, delay: float) -> None:
        """Pump after so many seconds."""
        at = _now() + delay
        if not (self._wakes and delay <= 0 and self._wakes[0] <= at):
            heapq.heappush(self._wakes, at)
        self._arm()

    def impatient(self, flight: Flight) -> BatonError:
        """With which one ends that has waited for as long as its lane's patience."""
        now = _now()
        soonest = self._forecast.first_token(flight, self._ahead(flight, late=False), now)
        return _overloaded(
            f"no worker had time for it within {flight.patience:g} s", 1.0 if soonest is None
            else soonest
        )

    def hopeless(self) -> Iterator[tuple[Flight, BatonError]]:
        """Those that cannot have a first token within their patience any more, after workers were
        lost; with the errors to end them with."""
        now = _now()
        ahead: Counter[str] = Counter()
        speed: float | None = None
        for flight in self.queue:
            if flight.stamps.dispatched is not None or flight.patience is None or flight.begun:
                continue
            if speed is None:
                speed = self._forecast.capacity(flight, now)
                if speed is None:
                    return
            lane = flight.lane
            ahead[lane] += flight.work  # type: ignore[assignment]  # counts seconds
            seconds = ahead[lane] / (speed * self.queue.share(lane))
            left = flight.stamps.arrived + flight.patience - now
            if seconds > left:
                ahead[lane] -= flight.work  # type: ignore[assignment]
                yield flight, _overloaded(
                    "too few workers are left to serve it in time", seconds - left
                )

    def close(self) -> None:
        """No timer is left. Idempotent."""
        self._wakes.clear()
        if self._timer is not None:
            self._timer.cancel()

    # -- inside ------------------------------------------------------------------------------

    def _pump_when_room(self, now: float) -> None:
        """A worker gets its next prompt before it is through with those that it has, of which
        nothing tells but time."""
        room = self._placement.room_in(now)
        if room is None:
            return
        room = max(room, LEAST_WAIT)
        if not now < self._room_at <= now + room:
            self._room_at = now + room
            self.pump_soon(room)

    def _try(self, flight: Flight, now: float) -> Wait | None:
        """None when it was sent."""
        trouble = flight.trouble
        waited_for = self.queue.waited_for(flight)
        if waited_for is not None:
            trouble.waited_for = waited_for
        decision = self._placement.place(flight, now, self.queue.behind(flight))
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
        self._count(flight, -1)
        if not self._depth[flight.lane]:
            self._admission.waits(flight.lane, False, _now())

    def _count(self, flight: Flight, sign: int) -> None:
        self._depth[flight.lane] += sign
        self._bytes[flight.lane] += sign * flight.num_bytes
        self._observer.queue_depth("router", len(self.queue))

    def _refusal(self, flight: Flight, now: float) -> BatonError | None:
        """Of one that is in the queue, and has just come."""
        lane = self._lanes.named(flight.lane)
        retry_after = None if self._starved else self._admission.refusal(
            Prospect(
                lane,
                now - flight.stamps.arrived,
                self._ahead(flight, late=False),
                self._ahead(flight, late=True),
                self.queue.share(lane.name),
            ),
            self._forecast.first_token(flight, 0.0, now),
            self._forecast.capacity(flight, now),
            now,
        )
        if self._depth[lane.name] > self._max_queue or self._bytes[lane.name] > self._max_bytes:
            return BatonError(
                "queue_full",
                f"{self._depth[lane.name] - 1} requests of the lane {lane.name} are waiting "
                "already; try again later",
                retry_after=retry_after or 1.0,
            )
        if retry_after is None:
            return None
        return _overloaded(
            f"too much is waiting for a first token within {lane.patience:g} s", retry_after
        )

    def _ahead(self, flight: Flight, *, late: bool) -> float:
        return self.queue.work_before(flight, flight.work, late=late)

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


def _work(flight: Flight) -> float | None:
    """Seconds of prefill that were predicted where it was sent."""
    prediction = None if flight.decision is None else flight.decision.prediction
    return None if prediction is None else prediction.work


def _overloaded(what: str, retry_after: float) -> BatonError:
    return BatonError(
        "overloaded",
        f"the workers have more to do than they can in time: {what}; try again later",
        retry_after=min(60.0, max(1.0, retry_after)),
    )


def _now() -> float:
    return asyncio.get_running_loop().time()

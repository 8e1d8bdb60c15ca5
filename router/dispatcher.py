"""Requests to workers, and their tokens back.

For each flight: decide (policy) or queue, send, follow what the workers say, try again elsewhere
with the accepted tokens when an attempt comes to nothing, and see to it that every flight ends:
in time, once, with everything freed on every worker that held something of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import count

from baton.protocol.errors import BatonError
from baton.protocol.ids import RequestKey
from baton.protocol.link import Session
from baton.protocol.records import (
    Admitted,
    Declined,
    Load,
    ModelCard,
    Record,
    Request,
    RequestFailed,
    TokenBatch,
    TokenDelta,
    WorkerHello,
    WorkerMetrics,
)
from baton.router.flight import Flight, Taken
from baton.router.observer import NoObserver, Observer
from baton.router.placement import Placement
from baton.router.policy import ROLES, Wait
from baton.router.queue import WaitingQueue
from baton.router.registry import Registry, Worker, WorkerView

log = logging.getLogger(__name__)

MAX_QUEUE = 512
NO_WORKER_GRACE = 0.8
"""Seconds that a request waits for a worker to come back when none is left."""
RESTART_MEMORY = 30.0
"""Seconds after a loss during which a worker is expected back."""
DECLINE_PAUSE = 0.05
DECLINE_PAUSE_MAX = 1.0
"""A worker that declined a request is not asked again for it for so long; doubles each time."""
MAX_LOST_WORKERS = 2
"""A request that has cost so many workers their lives is not given to another."""


class Dispatcher:
    """All on one event loop. `max_queue`: requests that may wait when every worker is full."""

    def __init__(
        self,
        registry: Registry | None = None,
        observer: Observer | None = None,
        *,
        max_queue: int = MAX_QUEUE,
    ) -> None:
        self.registry = registry or Registry()
        self._observer = observer or NoObserver()
        self._max_queue = max_queue
        self._flights: dict[str, Flight] = {}
        self._placement = Placement(self.registry)
        self._queue = WaitingQueue()
        self._numbers = count()
        self._finished_at: deque[float] = deque(maxlen=64)
        self._pump_timer: asyncio.TimerHandle | None = None
        self._pump_at = 0.0
        """When it fires. Not asked of the handle: uvloop's for "now" does not know."""
        self._closed = False

    # -- for the HTTP layer ------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether some worker takes requests now. Every worker contains both stages, so one of
        any role suffices."""
        return not self._closed and any(worker.available for worker in self.registry)

    @property
    def model(self) -> ModelCard | None:
        return self.registry.model

    @property
    def queue_depth(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    @property
    def max_choices(self) -> int:
        """Of one client's request: all of them have to find room at once."""
        return self._max_queue

    def worker_views(self) -> list[WorkerView]:
        return self.registry.views(_now())

    def submit(self, request: Request) -> Flight:
        """Take one choice on. Raises BatonError: no_worker, queue_full (with retry_after) or
        shutting_down."""
        now = _now()
        if self._closed:
            raise BatonError("shutting_down", "this router is shutting down", retry_after=1.0)
        if not self.ready and now - self.registry.last_loss > RESTART_MEMORY:
            raise _no_worker()
        if request.key.request_id in self._flights:
            raise BatonError("internal_error", f"request {request.key} is in flight already")
        flight = Flight(request, next(self._numbers), now, self._end_by_reader)
        if len(self._queue) > 0 or self._try(flight, now) is not None:
            if len(self._queue) >= self._max_queue:
                raise BatonError(
                    "queue_full",
                    f"{len(self._queue)} requests are waiting already; try again later",
                    retry_after=self._retry_after(now),
                )
            self._enqueue(flight)
        self._flights[request.key.request_id] = flight
        self._watch(flight)
        self._pump()
        return flight

    def close(self) -> None:
        """End all flights and take no more. Idempotent."""
        self._closed = True
        for flight in list(self._flights.values()):
            self._fail(flight, BatonError("shutting_down", "this router is shutting down"))
        if self._pump_timer is not None:
            self._pump_timer.cancel()

    # -- from the control session ------------------------------------------------------------

    def worker_joined(self, hello: WorkerHello, session: Session) -> Worker:
        """Raises BatonError when it does not fit the cluster. Another life of the same worker,
        which may have joined at another listener, is over then."""
        self.registry.check(hello)
        previous = self.registry.named(hello.identity.node_id)
        if previous is not None:
            previous.session.close("the worker joined again")
            self.worker_lost(previous, "it joined again")
        worker = self.registry.add(hello, session, _now())
        for flight in self._flights.values():
            # The same life is back: it was cut off, perhaps by a pause of ours, and did not die.
            flight.trouble.lost_workers.discard(worker.identity)
        log.info("worker %s joined as %s", hello.identity.node_id, hello.role)
        self._pump_soon(0.0)
        return worker

    def worker_lost(self, worker: Worker, reason: str) -> None:
        """Its session is over: what it held goes elsewhere. Idempotent."""
        if worker.state == "lost":
            return
        guilty = worker.state != "draining"
        self.registry.lose(worker, _now())
        self._observer.worker_gone(worker.identity.node_id)
        held = sorted(worker.decoding | worker.prefilling.keys(), key=lambda f: f.number)
        log.warning(
            "worker %s lost with %d requests: %s", worker.identity.node_id, len(held), reason
        )
        worker.decoding.clear()
        worker.prefilling.clear()
        worker.promised.clear()
        for flight in held:
            if guilty:
                flight.trouble.lost_workers.add(worker.identity)
            if len(flight.trouble.lost_workers) >= MAX_LOST_WORKERS:
                self._fail(flight, BatonError(
                    "too_many_failures",
                    f"{MAX_LOST_WORKERS} workers failed while they worked on this request",
                ))
            else:
                self._retry(flight, "worker_lost")
        self._pump()

    def on_record(self, worker: Worker, record: Record) -> None:
        match record:
            case TokenBatch():
                now = _now()
                for delta in record.deltas:
                    self._on_delta(worker, delta, now)
            case Load():
                self._on_load(worker, record)
            case Admitted():
                self._on_admitted(worker, record)
            case Declined():
                self._on_declined(worker, record)
            case RequestFailed():
                flight = self._current(worker, record.key)
                if flight is not None:
                    self._placement.forget(flight, worker.identity)
                    self._fail(flight, BatonError(record.code, record.message))
            case WorkerMetrics():
                self._observer.worker_metrics(worker.identity.node_id, record)
            case _:
                log.error(
                    "worker %s may not send %s", worker.identity.node_id, type(record).__name__
                )

    def _on_load(self, worker: Worker, load: Load) -> None:
        if load.role not in ROLES:
            log.error("worker %s says its role is %r", worker.identity.node_id, load.role)
            return
        if worker.state != load.state:
            log.info("worker %s is %s", worker.identity.node_id, load.state)
        worker.load, worker.role, worker.heard = load, load.role, _now()
        worker.state = load.state
        worker.promised.clear()
        self._observer.worker_load(worker.identity.node_id, load)
        if self._queue:
            self._pump()

    def _on_delta(self, worker: Worker, delta: TokenDelta, now: float) -> None:
        flight = self._current(worker, delta.key)
        if flight is None:
            return
        prefilled = flight.prefilled
        taken = flight.take(delta, now)
        if taken is Taken.FINISHED:
            self._finish(flight, now)
        elif taken is Taken.OUT_OF_ORDER:
            log.error(
                "worker %s sent position %d of %s, expected %d: trying again",
                worker.identity.node_id, delta.position, delta.key, len(flight.accepted),
            )
            self._avoid(flight, worker)
            self._retry(flight, "out_of_order")
            self._pump()
        elif flight.prefilled and not prefilled:
            self._placement.first_token(flight)
            self._watch(flight)  # from here the time between tokens counts

    def _on_admitted(self, worker: Worker, record: Admitted) -> None:
        flight = self._current(worker, record.key)
        if flight is None or flight.holders.get(worker.identity) != "decode":
            return
        flight.admitted = True
        flight.add_phases(record.phases)
        self._placement.handed_over(flight)

    def _on_declined(self, worker: Worker, record: Declined) -> None:
        flight = self._current(worker, record.key)
        if flight is None:
            return
        self._placement.forget(flight, worker.identity)
        self._avoid(flight, worker)
        self._retry(flight, record.reason)
        self._pump()

    def _avoid(self, flight: Flight, worker: Worker) -> None:
        """This worker is not asked for it again for a moment."""
        trouble = flight.trouble
        pause = min(DECLINE_PAUSE_MAX, DECLINE_PAUSE * 2.0 ** min(trouble.declines, 10))
        trouble.declines += 1
        trouble.excluded_until[worker.identity] = _now() + pause
        self._pump_soon(pause)

    def _current(self, worker: Worker, key: RequestKey) -> Flight | None:
        """The flight, if this attempt is its current one and this worker has a part in it."""
        flight = self._flights.get(key.request_id)
        if flight is None or flight.key != key or worker.identity not in flight.holders:
            return None
        return flight

    # -- sending and waiting -----------------------------------------------------------------

    def _try(self, flight: Flight, now: float) -> Wait | None:
        """None when it was sent."""
        decision = self._placement.place(flight, now)
        if isinstance(decision, Wait):
            return decision
        if flight.stamps.dispatched is None:
            flight.stamps.dispatched = now
            self._observer.queued("router", now - flight.stamps.arrived)
        self._observer.decision(decision.route, decision.reason)
        return None

    def _enqueue(self, flight: Flight) -> None:
        self._queue.add(flight)
        self._observer.queue_depth("router", len(self._queue))

    def _dequeue(self, flight: Flight) -> None:
        self._queue.remove(flight)
        self._observer.queue_depth("router", len(self._queue))

    def _pump(self) -> None:
        """Send what can be sent, oldest first."""
        now = _now()
        for flight in self._queue:
            if flight not in self._queue:
                continue
            wait = self._try(flight, now)
            if wait is None:
                self._dequeue(flight)
            elif wait is Wait.NO_WORKER:
                self._starve(flight, now)
            else:
                flight.starved_since = None
                if wait is Wait.BUSY and not flight.excluded(now):
                    return  # nobody overtakes it

    def _pump_soon(self, delay: float) -> None:
        at = _now() + delay
        if self._pump_timer is not None:
            if self._pump_at <= at:
                return
            self._pump_timer.cancel()
        self._pump_at = at
        self._pump_timer = asyncio.get_running_loop().call_at(at, self._pump_now)

    def _pump_now(self) -> None:
        self._pump_timer = None
        self._pump()
        now = _now()
        waits = [
            until
            for flight in self._queue
            for until in flight.trouble.excluded_until.values()
            if until > now
        ]
        if waits:
            self._pump_soon(min(waits) - now)

    def _starve(self, flight: Flight, now: float) -> None:
        if flight.starved_since is None:
            flight.starved_since = now
            self._watch(flight)

    def _retry_after(self, now: float) -> float:
        """Seconds until the queue that is there now has been served, by the recent rate."""
        if len(self._finished_at) < 2:
            return 1.0
        rate = len(self._finished_at) / max(1e-3, now - self._finished_at[0])
        return min(60.0, max(1.0, round(len(self._queue) / rate)))

    # -- trying again ------------------------------------------------------------------------

    def _retry(self, flight: Flight, reason: str) -> None:
        """A new attempt, first in the queue. The caller pumps."""
        self._observer.retry(reason)
        self._placement.release(flight, reason)
        flight.next_attempt()
        if flight not in self._queue:
            self._enqueue(flight)

    # -- ends --------------------------------------------------------------------------------

    def _finish(self, flight: Flight, now: float) -> None:
        self._placement.release(flight, None)
        self._ended(flight, flight.finish_reason or "stop", now, None)

    def _fail(self, flight: Flight, error: BatonError) -> None:
        self._placement.release(flight, error.code)
        self._ended(flight, error.code, _now(), error)

    def _end_by_reader(self, flight: Flight, outcome: str, reason: str) -> None:
        self._placement.release(flight, reason)
        self._ended(flight, outcome, _now(), None)

    def _ended(self, flight: Flight, outcome: str, now: float, error: BatonError | None) -> None:
        if flight.ended:
            return
        flight.end(outcome, now, error)
        self._flights.pop(flight.key.request_id, None)
        self._dequeue(flight)
        self._finished_at.append(now)
        self._observer.flight_finished(outcome, flight.phases)
        if self._queue:
            self._pump_soon(0.0)

    # -- deadlines ---------------------------------------------------------------------------

    def _watch(self, flight: Flight) -> None:
        """Arm the flight's one timer for its next deadline. Tokens move deadlines away without
        touching the timer: it looks again when it fires."""
        if flight.timer is not None:
            flight.timer.cancel()
            flight.timer = None
        if flight.ended:
            return
        now = _now()
        if flight.starved_since is not None and now >= flight.starved_since + NO_WORKER_GRACE:
            lost = flight.trouble.was_running
            self._fail(flight, BatonError(
                "worker_lost", "the worker of this request was lost, and no other is left",
                retry_after=1.0,
            ) if lost else _no_worker())
            return
        at, text = flight.deadline()
        if now >= at:
            self._fail(flight, BatonError("deadline_exceeded", text))
            return
        if flight.starved_since is not None:
            at = min(at, flight.starved_since + NO_WORKER_GRACE)
        flight.timer = asyncio.get_running_loop().call_at(at, self._watch, flight)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _no_worker() -> BatonError:
    return BatonError("no_worker", "no worker can serve requests now", retry_after=1.0)

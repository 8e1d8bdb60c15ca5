"""Requests to workers, and their tokens back.

For each flight: decide (policy) or queue, send, follow what the workers say, try again elsewhere
with the accepted tokens when an attempt comes to nothing, and see to it that every flight ends:
in time, once, with everything freed on every worker that held something of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import count

from baton.protocol.cache_events import CacheDump, CacheEvents
from baton.protocol.errors import BatonError
from baton.protocol.ids import RequestKey
from baton.protocol.link import LossCause, Session
from baton.protocol.records import (
    Admitted,
    Curves,
    Declined,
    Load,
    ModelCard,
    Parked,
    Record,
    Request,
    RequestFailed,
    TokenBatch,
    TokenDelta,
    WorkerHello,
    WorkerMetrics,
)
from baton.router.account import Account
from baton.router.books import Books
from baton.router.caches import Caches
from baton.router.candidates import ROLES
from baton.router.deadlines import DeadlineWatch, no_worker
from baton.router.drain import Drain
from baton.router.flight import ACCEPTED, Flight, Taken
from baton.router.forecast import Forecast
from baton.router.lane_room import LaneRoom
from baton.router.lanes import Lanes
from baton.router.learning import Learning
from baton.router.lending import Lending
from baton.router.migration import Migrations
from baton.router.observer import FlightWatcher, NoObserver, Observer
from baton.router.overview import SHOWN, LaneView, Overview
from baton.router.placement import Placement
from baton.router.policy import Decide, decide
from baton.router.registry import Registry, Worker
from baton.router.retries import Retries
from baton.router.sending import Sending
from baton.router.vitals import Vitals, is_fault
from baton.router.worker_view import WorkerView

log = logging.getLogger(__name__)

MAX_QUEUE = 512
RESTART_MEMORY = 30.0
"""Seconds after a loss during which a worker is expected back."""


class Dispatcher:
    """All on one event loop. `max_queue`: requests that may wait when every worker is full.
    `journal`: where the account of each choice goes that ended. `decide`: as of `Placement`."""

    def __init__(
        self,
        registry: Registry | None = None,
        observer: Observer | None = None,
        *,
        max_queue: int = MAX_QUEUE,
        lanes: Lanes | None = None,
        router_id: str = "",
        journal: Callable[[Account], None] | None = None,
        strict_roles: bool = False,
        decide: Decide = decide,
    ) -> None:
        self.registry = registry or Registry()
        self._observer = observer or NoObserver()
        self._max_queue = max_queue
        self.lanes = lanes or Lanes()
        self._flights: dict[str, Flight] = {}
        self._numbers = count()
        self._caches = Caches(self.registry)
        self._lending = Lending(self.registry, self._observer, self._caches.known)
        self._books = Books(self._lending.names, router=router_id, journal=journal)
        self._learning = learning = Learning(self.registry, self._observer)
        self._lane_room = LaneRoom(self.registry, self.lanes)
        self._vitals = Vitals(self.registry, self._observer)
        self._placement = Placement(
            self.registry, self._lending, learning, self._lane_room, self._vitals,
            strict_roles=strict_roles, decide=decide,
        )
        self._deadlines = DeadlineWatch(self._fail, lambda flight: self._sending.impatient(flight))
        self._sending = Sending(
            self._placement, Forecast(self.registry, self._placement), self._observer,
            self._deadlines.watch, lanes=self.lanes, max_queue=max_queue,
        )
        self._retries = Retries(
            self.registry, self._placement, self._sending, self._observer, self._fail
        )
        self._migrations = Migrations(self.registry, self._placement, self._observer)
        self._vitals.on_reopens = self._sending.pump_soon
        self._drain = Drain(
            self.registry, self._placement, self._sending, self._retries, self._migrations
        )
        self._closed = False
        self.watcher: FlightWatcher | None = None

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
        return len(self._sending.queue)

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    @property
    def max_choices(self) -> int:
        """Of one client's request: all of them have to find room at once."""
        return self._max_queue

    def worker_views(self) -> list[WorkerView]:
        return self.registry.views(_now())

    def submit(self, request: Request, *, session: str = "") -> Flight:
        """Take one choice on; `session`: what it belongs to. Raises BatonError: invalid_value (no
        such lane), no_worker, queue_full or overloaded (with retry_after), shutting_down."""
        now = _now()
        if self._closed:
            raise BatonError("shutting_down", "this router is shutting down", retry_after=1.0)
        if not self.ready and now - self.registry.last_loss > RESTART_MEMORY:
            raise no_worker()
        if request.key.request_id in self._flights:
            raise BatonError("internal_error", f"request {request.key} is in flight already")
        lane = self.lanes.named(request.lane)
        flight = Flight(lane.complete(request), next(self._numbers), now, self._end_by_reader)
        flight.patience, flight.affinity = lane.patience, session
        self._flights[request.key.request_id] = flight
        if self.watcher is not None:
            self.watcher.arrived(flight)
        self._retries.budget.request()
        self._lane_room.arrived(lane.name, now)
        refusal = self._sending.submit(flight)
        if refusal is not None:
            raise self._refused(flight, refusal)
        self._deadlines.watch(flight)
        return flight

    def explain(self, response_id: str) -> list[Account]:
        """All choices of a response, running or not long ended, in their order. Raises BatonError
        (not_found)."""
        accounts = self._books.explain(response_id, self._flights.values(), _now())
        if not accounts:
            raise BatonError("not_found", f"nothing is known (any more) of {response_id!r:.100}")
        return accounts

    def latest(self, limit: int) -> list[Account]:
        """The choices that ended last, latest first."""
        return self._books.history.latest(limit)

    def overview(self) -> Overview:
        """How things stand, in one look."""
        summaries, depth = self._books.lanes(_now()), self._sending.queue.depth()
        return Overview(
            model=None if self.model is None else self.model.name,
            in_flight=self.in_flight,
            queue=self.queue_depth,
            lanes=[
                LaneView(
                    name=lane.name,
                    ttft=lane.ttft,
                    itl=lane.itl,
                    waiting=depth[lane.name],
                    summary=summaries.get(lane.name),
                )
                for lane in self.lanes
            ],
            workers=self.worker_views(),
            decisions=self.latest(SHOWN),
        )

    def drain(self, worker_id: str, *, undo: bool = False) -> WorkerView:
        """Send nothing new to a worker and move away what it has; with `undo`, no longer. Returns
        at once: it is empty when its view has nothing `outstanding`. Raises BatonError
        (not_found)."""
        worker = self.registry.named(worker_id)
        if worker is None:
            raise BatonError("not_found", f"no worker {worker_id!r} is here now")
        if undo:
            self._drain.stop(worker)
        else:
            self._drain.start(worker)
        return next(view for view in self.worker_views() if view.id == worker_id)

    def close(self) -> None:
        """End all flights and take no more. Idempotent."""
        self._closed = True
        for flight in list(self._flights.values()):
            self._fail(flight, BatonError("shutting_down", "this router is shutting down"))
        self._sending.close()

    # -- from the control session ------------------------------------------------------------

    def worker_joined(self, hello: WorkerHello, session: Session) -> Worker:
        """Raises BatonError when it does not fit the cluster. Another life of the same worker,
        which may have joined at another listener, is over then."""
        self.registry.check(hello)
        previous = self.registry.named(hello.identity.node_id)
        if previous is not None:
            if previous.identity == hello.identity:
                previous.session.close("the worker joined again")
            else:
                previous.session.lose("the worker was started again", LossCause.PROCESS)
            self.worker_lost(previous, "it joined again")
        worker = self.registry.add(hello, session, _now())
        self._caches.worker_joined(worker)
        self._vitals.changed()
        self._retries.is_back(worker.identity, self._flights.values())
        log.info("worker %s joined as %s", hello.identity.node_id, hello.role)
        self._sending.worker_joined()
        return worker

    def worker_lost(self, worker: Worker, reason: str) -> None:
        """Its session is over: what it held goes elsewhere. Idempotent."""
        if worker.state == "lost":
            return  # the same life may be here again, by another session
        self._caches.worker_lost(worker)
        self._vitals.gone(worker)
        self._lane_room.gone(worker.identity)
        self._retries.worker_lost(worker, reason)

    def on_record(self, worker: Worker, record: Record) -> None:
        match record:
            case TokenBatch():
                now = _now()
                for delta in record.deltas:
                    self._on_delta(worker, delta, now)
            case Load():
                self._on_load(worker, record)
            case Curves():
                worker.learn(record)
            case CacheEvents() | CacheDump():
                self._caches.on_record(worker, record, _now())
            case Admitted():
                self._on_admitted(worker, record)
            case Parked():
                self._on_parked(worker, record)
            case Declined():
                self._on_declined(worker, record)
            case RequestFailed():
                flight = self._current(worker, record.key)
                if flight is not None:
                    if is_fault(record.code):
                        self._vitals.failed(flight, record.code, _now())
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
        if load.state not in ("ready", "draining"):
            log.error("worker %s says it is %r", worker.identity.node_id, load.state)
            return
        if worker.state != load.state:
            log.info("worker %s is %s", worker.identity.node_id, load.state)
        worker.hear(load, _now())
        self._vitals.heard(worker, _now())
        self._observer.worker_load(worker.identity.node_id, load)
        self._caches.tick(_now())
        if self._sending.queue:
            self._sending.pump()
        self._drain.pump()

    def _on_delta(self, worker: Worker, delta: TokenDelta, now: float) -> None:
        flight = self._current(worker, delta.key)
        if flight is None:
            return
        prefilled = flight.prefilled
        taken = flight.take(delta, now)
        if taken is ACCEPTED:
            self._vitals.goes_on(flight, now)
            if prefilled:
                return  # nearly all
        if taken is Taken.FINISHED:
            self._vitals.goes_on(flight, now)
            self._finish(flight, now)
        elif taken is Taken.OUT_OF_ORDER:
            log.error(
                "worker %s sent position %d of %s, expected %d: trying again",
                worker.identity.node_id, delta.position, delta.key, len(flight.accepted),
            )
            self._vitals.failed(flight, "out of order", now)
            self._retries.out_of_order(flight, worker)
        elif flight.prefilled and not prefilled:
            self._placement.first_token(flight, now)
            flight.trouble.recompute = False
            if self._sending.queue:
                self._sending.pump_soon(0.0)  # whoever prefilled it has room for another prompt
            self._deadlines.watch(flight)  # from here the time between tokens counts
            self._drain.pump()

    def _on_admitted(self, worker: Worker, record: Admitted) -> None:
        flight = self._current(worker, record.key)
        if flight is None or flight.holders.get(worker.identity) != "decode":
            return
        flight.admitted = True
        self._vitals.admitted(flight)
        flight.add_phases(record.phases)
        self._placement.handed_over(flight)
        self._migrations.admitted(flight)
        self._drain.pump()

    def _on_parked(self, worker: Worker, record: Parked) -> None:
        flight = self._current(worker, record.key)
        if flight is not None and not self._migrations.on_parked(flight, worker, record):
            self._retries.retry(flight, "migration")
            self._sending.pump()

    def _on_declined(self, worker: Worker, record: Declined) -> None:
        flight = self._current(worker, record.key)
        if flight is not None:
            self._vitals.failed(flight, record.reason, _now())
            self._retries.declined(flight, worker, record.reason)

    def _current(self, worker: Worker, key: RequestKey) -> Flight | None:
        """The flight, if this attempt is its current one and this worker has a part in it."""
        flight = self._flights.get(key.request_id)
        # Asked of every token: without the properties, each of which is a call.
        if (
            flight is None
            or flight.request.key != key
            or worker.hello.identity not in flight.holders
        ):
            return None
        return flight

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

    def _refused(self, flight: Flight, error: BatonError) -> BatonError:
        """It was never sent, and is out of the queue. Returns the error to raise."""
        self._flights.pop(flight.key.request_id, None)
        now = _now()
        flight.end(error.code, now, error)
        self._books.ended(flight, now)
        self._lending.ended(flight)
        if self.watcher is not None:
            self.watcher.ended(flight)
        return error

    def _ended(self, flight: Flight, outcome: str, now: float, error: BatonError | None) -> None:
        if flight.ended:
            return
        flight.end(outcome, now, error)
        self._flights.pop(flight.key.request_id, None)
        self._books.ended(flight, now)
        self._learning.ended(flight)
        self._lending.ended(flight)
        self._sending.ended(flight)
        self._observer.flight_finished(outcome, flight.phases)
        if self.watcher is not None:
            self.watcher.ended(flight)


def _now() -> float:
    return asyncio.get_running_loop().time()

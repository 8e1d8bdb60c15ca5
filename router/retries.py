"""What becomes of a flight whose attempt came to nothing.

    declined, tokens out of order      again, elsewhere for a moment; later, when there are many
                                       such (`budget.py`) and it has no token yet; with tokens as
                                       one whose worker was lost
    declined for lack of room          again, elsewhere or where something has ended meanwhile
    worker lost                        again, with the accepted tokens; where streams run, only
                                       so much of this at a time (`ways.RECOMPUTE_TOKENS`)
    a second life lost with it         too_many_failures: it may be the cause

The new attempt takes the flight's old place in the queue; words about the old one are ignored from
here on, and every worker that held something of it is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity
from baton.protocol.link import LossCause
from baton.router.budget import RetryBudget
from baton.router.declines import NO_FAULT, NO_ROOM
from baton.router.flight import Flight
from baton.router.observer import Observer
from baton.router.placement import Placement
from baton.router.registry import CERTAIN_BLAME, Registry, Worker
from baton.router.sending import Sending

log = logging.getLogger(__name__)

DECLINE_PAUSE = 0.05
DECLINE_PAUSE_MAX = 1.0
"""A worker that declined a request is not asked again for it for so long; doubles each time."""
MAX_BLAME = 2 * CERTAIN_BLAME
"""A request that has cost two workers their lives is not given to another."""
DEATHS = (LossCause.PROCESS, LossCause.CONNECTION, LossCause.SILENCE, LossCause.FAILED)
"""Losses that a request may have caused; a worker that is stopped, or only dials again, is none."""


class Retries:
    """`fail` ends a flight with a typed error. Everything here has pumped when it returns, except
    `retry`."""

    def __init__(
        self,
        registry: Registry,
        placement: Placement,
        sending: Sending,
        observer: Observer,
        fail: Callable[[Flight, BatonError], None],
    ) -> None:
        self._registry = registry
        self._placement = placement
        self._sending = sending
        self._observer = observer
        self._fail = fail
        self.budget = RetryBudget()

    def retry(self, flight: Flight, reason: str) -> None:
        """A new attempt, in the queue. The caller pumps."""
        self._observer.retry(reason)
        self._placement.release(flight, reason)
        flight.next_attempt()
        if flight not in self._sending.queue:
            self._sending.enqueue(flight)

    def declined(self, flight: Flight, worker: Worker, reason: str) -> None:
        """The worker holds nothing of it any more."""
        self._placement.forget(flight, worker.identity)
        if reason == NO_ROOM and worker.outstanding:
            # The worker's trouble, not the request's, which keeps its place: were it to make a
            # pause, younger ones would take whatever room there is, again and again.
            worker.had_no_room()
        else:
            self._avoid(flight, worker)
        if flight.begun and reason != NO_ROOM:
            # A link that is cut ends many at once; beside streams they go on one by one.
            flight.trouble.recompute = True
        self.retry(flight, reason)
        if reason not in NO_FAULT and not flight.begun:
            self._sending.hold_back(flight, self.budget.take(_now()))
        self._sending.pump()

    def out_of_order(self, flight: Flight, worker: Worker) -> None:
        self._avoid(flight, worker)
        self.retry(flight, "out_of_order")
        self._sending.pump()

    def worker_lost(self, worker: Worker, reason: str) -> None:
        """Its session is over: what it held goes elsewhere. Idempotent."""
        if worker.state == "lost":
            return
        now = _now()
        cause = worker.session.cause
        died = cause in DEATHS and worker.state != "draining"
        self._registry.lose(worker, now)
        if cause in DEATHS:
            assert cause is not None
            self._observer.worker_died(cause.value, now - worker.session.heard)
        self._observer.worker_gone(worker.identity.node_id)
        held = sorted(worker.decoding | worker.prefilling.keys(), key=lambda f: f.number)
        log.warning(
            "worker %s lost with %d requests: %s", worker.identity.node_id, len(held), reason
        )
        worker.empty()
        for flight in held:
            trouble = flight.trouble
            if died:
                trouble.lost_workers[worker.identity] = worker.blame(flight)
            if sum(trouble.lost_workers.values()) >= MAX_BLAME:
                self._fail(flight, BatonError(
                    "too_many_failures",
                    f"{len(trouble.lost_workers)} workers failed while they worked on this request",
                ))
            else:
                trouble.recompute = True
                trouble.lost_at, trouble.waited_for = now, "nothing"
                self.retry(flight, "worker_lost")
        worker.sent.clear()
        self._sending.pump()
        for flight, error in list(self._sending.hopeless()):
            self._fail(flight, error)

    def is_back(self, identity: Identity, flights: Iterable[Flight]) -> None:
        """The same life has joined again: it was cut off, perhaps by a pause of ours, and did not
        die."""
        for flight in flights:
            flight.trouble.lost_workers.pop(identity, None)

    def _avoid(self, flight: Flight, worker: Worker) -> None:
        """This worker is not asked for it again for a moment."""
        trouble = flight.trouble
        pause = min(DECLINE_PAUSE_MAX, DECLINE_PAUSE * 2.0 ** min(trouble.declines, 10))
        trouble.declines += 1
        trouble.excluded_until[worker.identity] = _now() + pause
        self._sending.pump_soon(pause)


def _now() -> float:
    return asyncio.get_running_loop().time()

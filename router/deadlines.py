"""Every flight ends in time: one timer each, for its next deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from baton.protocol.errors import BatonError
from baton.router.flight import Flight

NO_WORKER_GRACE = 0.8
"""Seconds that a request waits for a worker to come back when none is left."""


class DeadlineWatch:
    """`fail` ends a flight with a typed error; `impatient` says which, when it was in the queue
    for as long as its lane's patience."""

    def __init__(
        self,
        fail: Callable[[Flight, BatonError], None],
        impatient: Callable[[Flight], BatonError],
    ) -> None:
        self._fail = fail
        self._impatient = impatient

    def watch(self, flight: Flight) -> None:
        """Arm the flight's one timer for its next deadline. Tokens move deadlines away without
        touching the timer: it looks again when it fires."""
        if flight.timer is not None:
            flight.timer.cancel()
            flight.timer = None
        if flight.ended:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        starved = flight.starved_since
        if starved is not None and now >= starved + NO_WORKER_GRACE:
            lost = flight.trouble.was_running
            self._fail(flight, BatonError(
                "worker_lost", "the worker of this request was lost, and no other is left",
                retry_after=1.0,
            ) if lost else no_worker())
            return
        at, text = flight.deadline()
        if now >= at:
            self._fail(flight, BatonError("deadline_exceeded", text))
            return
        impatient_at = flight.impatient_at
        if impatient_at is not None:
            if now >= impatient_at:
                self._fail(flight, self._impatient(flight))
                return
            at = min(at, impatient_at)
        if starved is not None:
            at = min(at, starved + NO_WORKER_GRACE)
        flight.timer = loop.call_at(at, self.watch, flight)


def no_worker() -> BatonError:
    return BatonError("no_worker", "no worker can serve requests now", retry_after=1.0)

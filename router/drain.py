"""Emptying a worker without anybody noticing.

    ready --drain--> draining, and empty in the end --undrain--> ready

A draining worker gets nothing new. What waits there for its first token is routed again, what
decodes is moved with its KV, a few requests at a time, as the others have room; what nobody has
room for stays and ends where it is. A drain is for one life of a worker: when it comes back it is
ready.

Other routers may serve the same worker. It is told, and says in its heartbeats that it is draining;
so all of them empty it of what is theirs. (One of the version before is emptied by this router
only.) A worker that drains on its own account is emptied the same way.

`pump` is called whenever something of this may have become possible; nothing polls.
"""

from __future__ import annotations

import asyncio
import logging

from baton.protocol.records import SetDraining
from baton.router.flight import Flight
from baton.router.migration import Migrations
from baton.router.placement import Placement
from baton.router.registry import Registry, Worker
from baton.router.retries import Retries
from baton.router.sending import Sending

log = logging.getLogger(__name__)

MAX_LEAVING = 4
"""Requests that leave one worker at a time: each stands still for as long as its KV travels."""


class Drain:
    def __init__(
        self,
        registry: Registry,
        placement: Placement,
        sending: Sending,
        retries: Retries,
        migrations: Migrations,
    ) -> None:
        self._registry = registry
        self._placement = placement
        self._sending = sending
        self._retries = retries
        self._migrations = migrations
        self._pumping = False

    def start(self, worker: Worker) -> None:
        """Idempotent."""
        if not worker.drained:
            log.info("draining worker %s", worker.identity.node_id)
        worker.drained = True
        _tell(worker)
        self.pump()

    def stop(self, worker: Worker) -> None:
        """It takes requests again, with its next heartbeat. What is leaving leaves. Whichever
        router it was that drained it. Idempotent."""
        if worker.drained or worker.state == "draining":
            log.info("worker %s is no longer drained", worker.identity.node_id)
        worker.drained = False
        _tell(worker)
        self._sending.pump()

    def pump(self) -> None:
        """Let go from draining workers what can go now."""
        if self._pumping:
            return
        self._pumping = True
        try:
            for worker in self._registry:
                if worker.leaving and worker.outstanding:
                    self._reroute(worker)
                    self._move(worker)
        finally:
            self._pumping = False

    # -- inside ------------------------------------------------------------------------------

    def _reroute(self, worker: Worker) -> None:
        """Nothing of these has reached a client, and little is lost. Only where they can start at
        once: else they wait here, where their turn comes."""
        now = asyncio.get_running_loop().time()
        for flight in _oldest_first(worker):
            if flight.prefilled or self._sending.queue:
                continue
            if self._placement.has_place(flight, now):
                self._retries.retry(flight, "drained")
                self._sending.pump()

    def _move(self, worker: Worker) -> None:
        free = MAX_LEAVING - self._migrations.under_way(worker.identity)
        for flight in _oldest_first(worker):
            if free <= 0:
                return
            if self._migrations.can_move(flight, worker):
                if not self._migrations.ask(flight, worker):
                    continue  # a smaller one may fit
                free -= 1


def _tell(worker: Worker) -> None:
    if worker.session.is_open and worker.session.speaks(SetDraining):
        worker.send(SetDraining(draining=worker.drained))


def _oldest_first(worker: Worker) -> list[Flight]:
    return sorted(worker.decoding | worker.prefilling.keys(), key=lambda flight: flight.number)

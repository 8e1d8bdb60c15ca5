"""Moving a request that decodes to another worker, with its KV.

    decoding --Migrate--> asked --Parked--> moving --Admitted--> decoding there
                            |                  |
                            |                  +-- declined, lost, out of time: a new attempt
                            +-- not decoding just then, or it ended: nothing has happened

`Migrate` goes to the worker that has it; the other one hears of it with a `Reserve` once the
request is parked, for only then is it known which tokens it has. From there it is a hand-off like
that of a prefill, whose first token is the last one that was told: the attempt stays the same, and
no position is told twice. The source is then a holder as a prefill worker is after its first token,
so whatever goes wrong is a failure of a hand-off, and ends in a retry.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from baton.protocol.ids import Identity
from baton.protocol.records import Migrate, Parked, Request, Reserve
from baton.protocol.tokens import pack_tokens
from baton.router.flight import Flight
from baton.router.observer import Observer
from baton.router.placement import Placement
from baton.router.policy import receiver_for
from baton.router.registry import Registry, Worker


@dataclass(slots=True)
class _Migration:
    flight: Flight
    source: Identity
    target: Identity
    moving: bool = False


class Migrations:
    """At most one per request."""

    def __init__(self, registry: Registry, placement: Placement, observer: Observer) -> None:
        self._registry = registry
        self._placement = placement
        self._observer = observer
        self._migrations: dict[Flight, _Migration] = {}
        placement.on_release = self._given_up

    def under_way(self, source: Identity) -> int:
        """How many requests are leaving this worker just now."""
        return sum(migration.source == source for migration in self._migrations.values())

    def can_move(self, flight: Flight, source: Worker) -> bool:
        """Whether it decodes there, as far as is known here, and may be asked for."""
        return (
            self._placement.decodes(flight, source.identity)
            and len(flight.holders) == 1
            and flight not in self._migrations
            and source.session.speaks(Migrate)
        )

    def ask(self, flight: Flight, source: Worker) -> bool:
        """Begin, if some other worker has room. `can_move` holds."""
        target = self._find_target(flight, source.identity)
        if target is None:
            return False
        migration = _Migration(flight, source.identity, target.identity)
        self._migrations[flight] = migration
        self._placement.promise(flight, target)
        source.send(Migrate(key=flight.key, decode=target.ref))
        return True

    def on_parked(self, flight: Flight, source: Worker, record: Parked) -> bool:
        """The source's answer. False when the request has stopped and can not go on as planned:
        the caller tries it again."""
        migration = self._migrations.get(flight)
        if migration is None:
            return not record.parked
        if migration.moving:
            return True
        if not record.parked:
            del self._migrations[flight]
            self._keep_no_room(migration)
            self._observer.migration("not_running")
            return True
        target = self._registry.get(migration.target)
        if target is None or not target.session.is_open:
            return False
        migration.moving = True
        self._placement.move(flight, source, target)
        target.send(Reserve(request=_to_resume(flight), prefill=source.ref))
        return True

    def admitted(self, flight: Flight) -> None:
        """Some worker decodes it now."""
        migration = self._migrations.get(flight)
        if migration is not None and migration.moving:
            del self._migrations[flight]
            self._observer.migration("moved")

    # -- inside ------------------------------------------------------------------------------

    def _find_target(self, flight: Flight, source: Identity) -> Worker | None:
        facts, now = self._placement.facts(flight), asyncio.get_running_loop().time()
        coming: dict[Identity, int] = {}
        for migration in self._migrations.values():
            if not migration.moving:
                coming[migration.target] = coming.get(migration.target, 0) + 1
        candidates = [
            msgspec.structs.replace(c, decoding=c.decoding + coming.get(c.identity, 0))
            for c in self._registry.candidates()
            if c.identity not in flight.holders
            and self._placement.may_move(source, c.identity, now)
        ]
        chosen = receiver_for(facts, candidates)
        return None if chosen is None else self._registry.get(chosen)

    def _given_up(self, flight: Flight) -> None:
        """The request has ended, or its attempt came to nothing."""
        migration = self._migrations.pop(flight, None)
        if migration is not None:
            self._keep_no_room(migration)
            self._observer.migration("unfinished")

    def _keep_no_room(self, migration: _Migration) -> None:
        target = self._registry.get(migration.target)
        if target is not None and not migration.moving:
            target.break_promise(migration.flight)


def _to_resume(flight: Flight) -> Request:
    """The last token comes with the seal, as the first one does after a prefill."""
    return msgspec.structs.replace(flight.request, accepted=pack_tokens(flight.accepted[:-1]))

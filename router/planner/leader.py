"""Which of several routers sizes the pools. Pure.

Routers learn of each other from the workers: each heartbeat names all routers that this worker
serves. The one with the lowest id leads. Who shares a worker with another hears of it; routers
that share none may both lead, and change the roles of different workers.

A new leader takes a term above all that it has heard of. Workers refuse older terms, and within a
term listen to the first that used it; a leader that finds another in its term takes the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from baton.protocol.ids import Identity


class Word(NamedTuple):
    """What a worker's heartbeat says."""

    routers: tuple[Identity, ...]
    term: int
    controller: str


class Leadership:
    """Of the router `me`."""

    def __init__(self, me: Identity) -> None:
        self.me = me
        self.name = f"{me.node_id}/{me.epoch:x}"
        """By which workers know it as a controller."""
        self.term = 0
        self.leads = False
        self.leader = me
        self.routers: tuple[Identity, ...] = (me,)

    def hear(self, words: Iterable[Word]) -> bool:
        """Whether it leads now."""
        heard = list(words)
        routers = {self.me}.union(*(word.routers for word in heard))
        self.routers = tuple(sorted(routers, key=_rank))
        self.leader = self.routers[0]
        led, self.leads = self.leads, self.leader == self.me
        if self.leads:
            highest = max((word.term for word in heard), default=0)
            taken = any(
                word.term == self.term and word.controller not in ("", self.name)
                for word in heard
            )
            if not led or highest > self.term or taken:
                self.term = max(highest, self.term) + 1
        return self.leads


def _rank(router: Identity) -> tuple[str, int]:
    return router.node_id, router.epoch

"""Room that lanes leave for the one that matters most: the last quarter of every worker.

Intervals have room as well: while heavier lanes are in use, the others leave a part of their target
(`restraint.py`), or many slow streams would leave no worker on which a fast one can run. One stream
on each worker they have in any case, as long as nobody's target is missed by it: else where people
alone take more than that part, nothing of the rest would ever run.

Only the lane of the highest weight may take the last quarter of a worker's slots and blocks; the
others leave it, unless they have less of the worker's slots than their weight gives them, or the
worker has nothing to do. So a flood of batch work finds no worker full, and what is urgent finds
none that has no room at all.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from baton.protocol.ids import Identity
from baton.router.candidates import Candidate
from baton.router.flight import Flight
from baton.router.lanes import Lane, Lanes
from baton.router.registry import Registry

QUARTER = 4


ACTIVE = 30.0
"""Seconds after its last request for which a lane's intervals are cared for."""


class LaneRoom:
    def __init__(self, registry: Registry, lanes: Lanes) -> None:
        self._registry = registry
        self._lanes = lanes
        self._highest = max(lane.weight for lane in lanes)
        self._all = sum(lane.weight for lane in lanes)
        self._last: dict[str, float] = {}
        """By lane: when its last request came."""
        self._known: dict[tuple[Identity, str], tuple[Candidate, Candidate]] = {}
        """By worker and lane: as it is, and as the lane may see it. Worked out when it changes."""

    def for_flight(self, flight: Flight, candidates: list[Candidate]) -> list[Candidate]:
        """The workers as this one may use them. What had begun may have all of them."""
        lane = self._lanes.named(flight.lane)
        if lane.weight >= self._highest or flight.begun:
            return candidates
        return [self._for_lane(lane, candidate) for candidate in candidates]

    def arrived(self, lane: str, now: float) -> None:
        self._last[lane] = now

    def interval(self, flight: Flight, identity: Identity, now: float) -> float | None:
        """The tightest target for intervals among the lanes of more weight that are in use. None
        where nothing of so little weight decodes yet: one stream on each worker is what a lane has
        in any case."""
        own = self._lanes.named(flight.lane).weight
        worker = self._registry.get(identity)
        if own < self._highest and worker is not None and not any(
            self._lanes.named(other.lane).weight <= own for other in worker.decoding
        ):
            return None
        return min(
            (
                lane.itl for lane in self._lanes
                if lane.weight > own and now - self._last.get(lane.name, -math.inf) < ACTIVE
            ),
            default=None,
        )

    def gone(self, worker: Identity) -> None:
        """Idempotent."""
        for lane in self._lanes:
            self._known.pop((worker, lane.name), None)

    # -- inside ------------------------------------------------------------------------------

    def _for_lane(self, lane: Lane, candidate: Candidate) -> Candidate:
        key = (candidate.identity, lane.name)
        known = self._known.get(key)
        if known is None or known[0] is not candidate:
            known = self._known[key] = (candidate, self._limited(lane, candidate))
        return known[1]

    def _limited(self, lane: Lane, candidate: Candidate) -> Candidate:
        worker, cluster = self._registry.get(candidate.identity), self._registry.layout
        if worker is None or cluster is None or candidate.decoding + candidate.prefilling == 0:
            return candidate
        own = sum(flight.lane == lane.name for flight in worker.decoding)
        if own + 1 <= candidate.max_running * lane.weight / self._all:
            return candidate
        tokens = worker.hello.num_blocks * worker.hello.layout.block_size
        return replace(
            candidate,
            max_running=candidate.max_running - candidate.max_running // QUARTER,
            available_blocks=candidate.available_blocks - tokens // cluster.block_size // QUARTER,
        )

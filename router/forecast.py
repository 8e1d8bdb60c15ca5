"""What requests in the queue will take, by the workers that are here now."""

from __future__ import annotations

import math

from baton.router.flight import Flight
from baton.router.placement import Placement
from baton.router.prediction import outlook, prefill_work
from baton.router.registry import Registry

CACHED = 0.1
"""Seconds for which it is not worked out again what all workers can do."""
_FAR = 1e6
"""Seconds of work so large that nothing but the workers' number and speed matters."""


class Forecast:
    def __init__(self, registry: Registry, placement: Placement) -> None:
        self._registry = registry
        self._placement = placement
        self._capacity: float | None = None
        self._workers = 0
        """That there were when it was worked out."""
        self._measured_at = -math.inf

    def work(self, flight: Flight, now: float) -> float:
        """Seconds that its prefill takes where it takes least, with what is cached there. Where no
        worker's speed is known it is a measure of length."""
        return prefill_work(self._placement.facts_now(flight, now), self._registry.candidates())

    def first_token(self, flight: Flight, ahead: float, now: float) -> float | None:
        """Seconds until its first token behind so many seconds of work that wait in the queue.
        None when no worker's speed is known."""
        facts = self._placement.facts_now(flight, now)
        candidates = self._registry.candidates(urgent=facts.urgent)
        return outlook(facts, candidates, ahead, now)

    def capacity(self, flight: Flight, now: float) -> float | None:
        """Seconds of such work that all workers do in a second, as of a moment ago."""
        if now >= self._measured_at + CACHED or len(self._registry) != self._workers:
            near, far = (self.first_token(flight, ahead, now) for ahead in (_FAR, 2 * _FAR))
            self._capacity = None if near is None or far is None else _FAR / (far - near)
            self._measured_at, self._workers = now, len(self._registry)
        return self._capacity

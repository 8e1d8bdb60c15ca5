"""What requests in the queue will take: predictions, from the workers that are here now."""

from __future__ import annotations

from baton.router.flight import Flight
from baton.router.placement import Placement
from baton.router.registry import Registry
from baton.router.speed import COUNTING


class Forecast:
    def __init__(self, registry: Registry, placement: Placement) -> None:
        self._registry = registry
        self._placement = placement

    def work(self, flight: Flight) -> float:
        """Seconds that the prefill of this one takes where it takes least."""
        return COUNTING.token * flight.num_tokens

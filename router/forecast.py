"""What requests in the queue will take, by the workers that are here now."""

from __future__ import annotations

import math
from typing import NamedTuple

from baton.router.candidates import Candidate
from baton.router.flight import Flight
from baton.router.placement import Placement
from baton.router.prediction import outlook, prefill_work
from baton.router.registry import Registry

CACHED = 0.1
"""Seconds for which it is not worked out again what all workers can do."""
_FAR = 1e6
"""Seconds of work so large that nothing but the workers' number and speed matters."""


class Demand(NamedTuple):
    """What one request asks of the workers, in seconds."""

    prompt: float
    """As `prefill_work` counts it."""
    whole: float
    """Of all workers together, with its answer in as large batches as its target and memory allow:
    the least that it can take. 0 where no worker's speed is known."""


class Forecast:
    def __init__(self, registry: Registry, placement: Placement) -> None:
        self._registry = registry
        self._placement = placement
        self._capacity: float | None = None
        self._has_room = False
        self._fastest: Candidate | None = None
        self._in_all = 1.0
        """All workers, as so many of the fastest one."""
        self._tokens = 0
        """That this one has room for."""
        self._workers = 0
        """That there were at the last look."""
        self._looked_at = -math.inf

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

    def demand(self, flight: Flight, now: float) -> Demand:
        """Of the fastest worker's time, where most of its prompt is cached."""
        decision = flight.decision
        facts = None if decision is None else decision.facts
        if facts is None:
            facts = self._placement.facts_now(flight, now)
        self._look(now)
        if self._fastest is None:
            return Demand(0.0, 0.0)
        model = self._fastest.model
        prompt = model.alone(
            facts.tokens, max(facts.held.values(), default=0) * facts.block_size
        )
        if not model.measured:
            return Demand(prompt, 0.0)
        context = facts.tokens + facts.output
        most = min(self._fastest.max_running, self._tokens / context)
        token = model.token_at_best(facts.tokens + facts.output / 2, facts.itl, most)
        return Demand(prompt, (prompt + facts.output * token) / self._in_all)

    def capacity(self, flight: Flight, now: float) -> float | None:
        """Seconds of such work that all workers do in a second, as of a moment ago. None when no
        worker's speed is known, or none has room for another answer: speeds say nothing then."""
        self._look(now)
        if self._capacity is None and self._has_room:
            near, far = (self.first_token(flight, ahead, now) for ahead in (_FAR, 2 * _FAR))
            self._capacity = None if near is None or far is None else _FAR / (far - near)
        return self._capacity

    def _look(self, now: float) -> None:
        """At all workers, now and then."""
        if now < self._looked_at + CACHED and len(self._registry) == self._workers:
            return
        self._looked_at, self._workers = now, len(self._registry)
        self._capacity = None
        everyone = self._registry.candidates()
        self._has_room = any(c.decoding < c.max_running for c in everyone)
        pool = [c for c in everyone if c.model.measured] or everyone
        first = self._fastest = min(pool, key=lambda c: c.model.rate_alone, default=None)
        if first is None:
            return
        rate, worker = first.model.rate_alone, self._registry.get(first.identity)
        self._in_all = sum([rate / c.model.rate_alone for c in pool])
        assert worker is not None, "a candidate is a worker"
        self._tokens = worker.hello.num_blocks * worker.hello.layout.block_size

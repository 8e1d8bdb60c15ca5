"""What requests teach when they were served: how far predictions were off, how long outputs are."""

from __future__ import annotations

from baton.router.accuracy import OutputLengths
from baton.router.candidates import RequestFacts
from baton.router.flight import Flight
from baton.router.harmless import harmless
from baton.router.observer import Observer
from baton.router.registry import Registry

LEAST_TOKENS = 8
"""Of a request from which something is learned of intervals."""
MEMORY = 30.0
"""Seconds for which a target counts as one of late."""


class Learning:
    """Told of every attempt's first token and end."""

    def __init__(self, registry: Registry, observer: Observer) -> None:
        self.outputs = OutputLengths()
        self.tightest: tuple[float | None, float] = (None, 0.0)
        """The tightest target for a first token that requests have come with of late, and the
        seconds that the targets of such a one give it."""
        self._tightest_at = 0.0
        self._registry = registry
        self._observer = observer

    @harmless
    def dispatched(self, facts: RequestFacts, now: float) -> None:
        """With every decision that is carried out."""
        if now - self._tightest_at > MEMORY:
            self.tightest = (None, 0.0)
        ttft, tightest = facts.ttft, self.tightest[0]
        if ttft is not None and (tightest is None or ttft <= tightest):
            self.tightest, self._tightest_at = (ttft, facts.worth), now

    @harmless
    def first_token(self, flight: Flight) -> None:
        dispatch = flight.dispatches[-1] if flight.dispatches else None
        if dispatch is None or dispatch.ttft is None:
            return
        decision, predicted = dispatch.decision, dispatch.decision.prediction
        worker = self._registry.get(decision.prefill or decision.decode)
        if worker is not None and predicted is not None and predicted.measured:
            self._observer.predicted("ttft", predicted.ttft, dispatch.ttft)
            if not flight.gives_way:
                worker.accuracy.first_token(predicted.queue, predicted.work, dispatch.ttft)
                worker.corrected()
        decoder = self._registry.get(decision.decode)
        if decoder is not None and dispatch.first_token is not None:
            dispatch.tokens_then = decoder.tokens_by(dispatch.first_token)

    @harmless
    def ended(self, flight: Flight) -> None:
        """For good, after its last attempt."""
        if flight.accepted:  # of others nobody knows how long they would have been
            self.outputs.ended(flight.request.lane, len(flight.accepted))

    @harmless
    def over(self, flight: Flight) -> None:
        """While its holders are still named."""
        dispatch = flight.dispatches[-1] if flight.dispatches else None
        if dispatch is None or dispatch.over:
            return
        dispatch.over = True
        decision, predicted = dispatch.decision, dispatch.decision.prediction
        worker = self._registry.get(decision.decode)
        if worker is None or predicted is None or not predicted.measured:
            return
        if worker.identity not in flight.holders:
            return  # it was moved
        first, second, last = dispatch.first_token, dispatch.second_token, dispatch.last_token
        if dispatch.tokens < LEAST_TOKENS or first is None or second is None or last is None:
            return
        if last <= first:
            return  # all at once: they waited together for something else
        self._observer.predicted("itl", predicted.itl, (last - first) / (dispatch.tokens - 1))
        # Against the load that there was, not the one foreseen, which is no worker's fault.
        due = (worker.tokens_by(last) - dispatch.tokens_then) * (last - second) / (last - first)
        worker.accuracy.interval(due / (dispatch.tokens - 2))
        step = (last - second) / (dispatch.tokens - 2)
        if decision.prefill is not None:
            worker.accuracy.handoff(predicted.transfer, second - first - step)
        worker.corrected()

"""What the router sees of its workers' health: latencies against predictions, failures, waiting.

Predictions count as the workers' curves make them, without what was learned since (`accuracy.py`):
else a worker that has become slow would soon be as fast as predicted.

| observed | against | of |
|---|---|---|
| first token | predicted when it was sent | the worker that computed the prompt |
| a few tokens in a row | the predicted step | the worker that decodes |
| a first token that does not come | predicted | the worker that owes it, with each heartbeat |
| declined but for NO_FAULT, out of order, internal errors | - | all that held the request |
| a hand-off that came to nothing | - | the way between the two workers (`severed.py`) |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity
from baton.router.declines import BETWEEN, EXPIRED, NO_FAULT
from baton.router.flight import Flight
from baton.router.harmless import harmless
from baton.router.health import OUTLIER, Health
from baton.router.observer import Observer
from baton.router.prediction import Prediction
from baton.router.registry import Registry, Worker
from baton.router.severed import Pair, Severed

log = logging.getLogger(__name__)

STRETCH = 8
"""Tokens in a row that one observation of intervals is made of."""
BESIDE_TTFT, LEAST_STEP = 0.02, 0.002
"""Seconds: messages, threads and the step under way come on top of a first token's own work, and of
steps below that it is they that are measured, not a worker."""
PATIENT = 1.0
"""Seconds that a first token may take in any case."""


class Vitals:
    def __init__(self, registry: Registry, observer: Observer) -> None:
        self.health: Health[Identity] = Health()
        self._severed = Severed()
        self._registry = registry
        self._observer = observer
        self.on_reopens: Callable[[float], None] = lambda seconds: None
        """Called when a worker is left alone for so many seconds: it is to be tried then."""
        self._stretches: dict[Flight, tuple[int, float]] = {}
        """Of flights that decode: tokens of the attempt and the time, where a stretch began."""
        self._shown: dict[Identity, bool] = {}
        self._pools: dict[Identity, str] | None = None

    def avoided(self, now: float) -> set[Identity]:
        """Workers that get nothing now."""
        return self.health.avoided(self._pool(), now)

    def severed(self, now: float, *, trials: bool = True) -> Collection[Pair]:
        """Between whom nothing should be handed over now, as `Severed.pairs`."""
        return self._severed.pairs(now, trials=trials)

    def to_probe(self, now: float) -> Identity | None:
        """A worker that is to be tried again."""
        return self.health.to_probe(self._pool(), now)

    @harmless
    def sent(self, flight: Flight, now: float) -> None:
        for identity in flight.holders:
            self.health.sent(identity, now)
        pair = _pair(flight)
        if pair is not None:
            self._severed.sent(pair, now)

    @harmless
    def admitted(self, flight: Flight) -> None:
        """It was handed over; its holders are still named."""
        pair = _pair(flight)
        if pair is not None:
            self._severed.worked(pair)

    def goes_on(self, flight: Flight, now: float) -> None:
        """It has got tokens. Called for every record of them, so it does nothing for most."""
        dispatches = flight.dispatches
        if dispatches and dispatches[-1].tokens % STRETCH > 1 and flight in self._stretches:
            return
        self.tokens(flight, now)

    @harmless
    def tokens(self, flight: Flight, now: float) -> None:
        """Those at which there is something to see."""
        dispatch = flight.dispatches[-1]
        count = dispatch.tokens
        begun = self._stretches.get(flight)
        decision = dispatch.decision
        predicted = decision.prediction
        known = predicted is not None and predicted.measured
        if count <= 1:
            ratio = None
            if known and dispatch.ttft is not None and not flight.gives_way:
                assert predicted is not None
                ratio = dispatch.ttft / (predicted.queue + predicted.work + BESIDE_TTFT)
            self._worked(decision.prefill or decision.decode, ratio, now)
        elif begun is None:  # the second token may have waited for a hand-off: count from there
            self._stretches[flight] = (count, now)
            self._worked(decision.decode, None, now)
        elif count - begun[0] >= STRETCH:
            self._stretches[flight] = (count, now)
            if known and flight.holders.get(decision.decode) in ("decode", "local"):
                assert predicted is not None
                step = (now - begun[1]) / (count - begun[0])
                self._worked(decision.decode, step / self._step(flight, predicted), now)

    @harmless
    def failed(self, flight: Flight, reason: str, now: float) -> None:
        """An attempt came to nothing; its holders are still named. Whose fault it was shows when
        they work with others."""
        pair = _pair(flight) if reason in BETWEEN else None
        if pair is not None and not _expired_before_its_turn(flight, reason, now):
            self._severed.failed(pair, now)
        if reason in NO_FAULT:
            return
        for identity in list(flight.holders):
            self.health.failed(identity, self._pool(), now)
            self._show(identity, reason, now)

    @harmless
    def over(self, flight: Flight) -> None:
        """An attempt is over; its holders are still named."""
        self._stretches.pop(flight, None)
        for identity in flight.holders:
            self.health.released(identity)

    @harmless
    def left(self, identity: Identity) -> None:
        """It holds nothing any more of some request, which may have been what it was tried with."""
        self.health.released(identity)

    @harmless
    def heard(self, worker: Worker, now: float) -> None:
        """Its heartbeat."""
        self._pools = None
        flight = next(iter(worker.prefilling), None)
        if flight is None or flight.prefilled or not flight.dispatches:
            return
        dispatch = flight.dispatches[-1]
        predicted, waited = dispatch.decision.prediction, now - dispatch.at
        if predicted is None or not predicted.measured or waited < PATIENT:
            return
        if flight.gives_way:
            return
        ratio = waited / (predicted.queue + predicted.work + BESIDE_TTFT)
        if ratio > 2 * OUTLIER:
            self.health.overdue(worker.identity, ratio, self._pool(), now)
            self._show(worker.identity, "no first token", now)

    def changed(self) -> None:
        """Workers came, or went, or are drained."""
        self._pools = None

    def gone(self, worker: Worker) -> None:
        """Idempotent."""
        self._pools = None
        self.health.gone(worker.identity)
        self._severed.gone(worker.identity)
        if self._shown.pop(worker.identity, False):
            self._observer.circuit(worker.identity.node_id, False, "")

    # -- inside ------------------------------------------------------------------------------

    def _pool(self) -> dict[Identity, str]:
        if self._pools is None:
            self._pools = {
                worker.identity: worker.role for worker in self._registry if worker.available
            }
        return self._pools

    def _step(self, flight: Flight, predicted: Prediction) -> float:
        """As predicted, by the worker's curve alone. With prompts to compute it fills its steps up
        to the targets, as it should."""
        worker = self._registry.get(flight.dispatches[-1].decision.decode)
        if worker is None:
            return max(predicted.step, LEAST_STEP)
        allowed = flight.request.targets.itl if len(worker.backlog) else None
        return max(
            predicted.step / worker.accuracy.correction.decode, LEAST_STEP, allowed or 0.0
        )

    def _worked(self, identity: Identity, ratio: float | None, now: float) -> None:
        """`ratio`: how long it took, against what was predicted; None: not known."""
        if ratio is None:
            self.health.worked(identity, self._pool(), now)
        else:
            self.health.latency(identity, ratio, self._pool(), now)
        self._show(identity, "", now)

    def _show(self, identity: Identity, reason: str, now: float) -> None:
        at = self.health.reopens_at(identity)
        if at is not None and at > now:
            self.on_reopens(at - now)
        if self._shown.get(identity, False) == (at is not None):
            return
        self._shown[identity] = at is not None
        circuit = self.health.circuits(now)[identity]
        self._observer.circuit(identity.node_id, at is not None, circuit.why)
        if at is None:
            worker = self._registry.get(identity)
            if worker is not None:  # what was learned of it is from when it was slow
                worker.forget_corrections()
            log.info("worker %s is used again", identity.node_id)
            return
        log.warning(
            "worker %s is not used for %.1f s: %s (%.1f times as long as predicted, %d %% of "
            "attempts failed%s)", identity.node_id, at - now, circuit.why, circuit.slowness,
            round(100 * circuit.failures), f", the last: {reason}" if reason else "",
        )


def _pair(flight: Flight) -> Pair | None:
    """Between whom this attempt is handed over."""
    parts = {part: identity for identity, part in flight.holders.items()}
    if "prefill" in parts and "decode" in parts:
        return parts["prefill"], parts["decode"]
    return None


def _expired_before_its_turn(flight: Flight, reason: str, now: float) -> bool:
    """Whether its reservation ended before its prompt had come far, as one that gives way to others
    may find: perhaps the link was never asked for anything."""
    if reason not in EXPIRED or flight.prefilled or not flight.dispatches:
        return False
    return now - flight.dispatches[-1].at >= flight.request.deadlines.handoff


def is_fault(code: str) -> bool:
    """Whether an error that a worker ended a request with says something of the worker."""
    return BatonError(code, "").status >= 500

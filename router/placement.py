"""Which worker holds what of a flight: sending an attempt out, and taking it back.

    decision            holders of the attempt
    local               one, as "local", to the end
    remote              "prefill" until the first token is here and the decode worker has admitted
                        the request; "decode" to the end
    migration           the worker that it leaves is as "prefill", the next one "decode"

A worker counts as holding something from the moment of sending, whatever it may answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from baton.protocol.ids import Identity
from baton.protocol.records import Cancel, Generate, Prefill, Reserve
from baton.router.flight import Flight
from baton.router.lending import Lending
from baton.router.policy import Decision, RequestFacts, Wait, decide
from baton.router.registry import Registry, Worker


class Placement:
    def __init__(self, registry: Registry, lending: Lending) -> None:
        self._registry = registry
        self._lending = lending
        self.on_release: Callable[[Flight], None] = lambda flight: None
        """Called when nothing of an attempt is wanted any more."""

    def place(self, flight: Flight, now: float) -> Decision | Wait:
        """Send the flight's attempt if workers can take it; otherwise say why not."""
        facts = self.facts(flight)
        held = self._lending.held(flight)
        candidates = self._registry.candidates()
        if held:
            candidates = [replace(c, cached_blocks=held.get(c.identity, 0)) for c in candidates]
        decision = decide(facts, candidates, flight.excluded(now))
        if isinstance(decision, Decision):
            self._send(flight, decision, facts, held)
            flight.trouble.was_running = True
            flight.starved_since = None
        return decision

    def has_place(self, flight: Flight, now: float) -> bool:
        """Whether `place` would send it."""
        decision = decide(self.facts(flight), self._registry.candidates(), flight.excluded(now))
        return isinstance(decision, Decision)

    def first_token(self, flight: Flight) -> None:
        """The prefill of this attempt is over, wherever it ran."""
        for identity, part in list(flight.holders.items()):
            worker = self._registry.get(identity)
            if worker is not None and part != "decode":
                self._lending.computed(flight, identity)
                worker.end_prefill(flight)
                if part == "prefill":  # it keeps the blocks until they are handed over
                    worker.hold_prefill(flight, 0)
        self.handed_over(flight)

    def handed_over(self, flight: Flight) -> None:
        """The prefill worker has nothing more to do with the attempt once both the first token
        and the blocks have arrived."""
        if flight.admitted and flight.prefilled:
            for identity, part in list(flight.holders.items()):
                if part == "prefill":
                    self.forget(flight, identity)

    def promise(self, flight: Flight, worker: Worker) -> None:
        """It is about to come there."""
        worker.promise(flight, self.facts(flight).blocks)

    def move(self, flight: Flight, source: Worker, target: Worker) -> None:
        """Its decoding has stopped at `source` and goes on at `target` after a hand-off."""
        source.end_decode(flight)
        source.hold_prefill(flight, 0)
        target.hold_decode(flight)
        self.promise(flight, target)
        flight.holders = {target.identity: "decode", source.identity: "prefill"}
        flight.admitted = False

    def forget(self, flight: Flight, identity: Identity) -> None:
        """This worker holds nothing of it. Idempotent."""
        flight.holders.pop(identity, None)
        worker = self._registry.get(identity)
        if worker is not None:
            worker.forget(flight)

    def release(self, flight: Flight, reason: str | None) -> None:
        """Nothing of the current attempt is wanted any more: tell all holders, unless (None) they
        know by themselves."""
        self.on_release(flight)
        self._lending.released(flight, reason)
        for identity in list(flight.holders):
            worker = self._registry.get(identity)
            if self.decodes(flight, identity):
                self._lending.computed(flight, identity)
            self.forget(flight, identity)
            if worker is not None and reason is not None:
                worker.send(Cancel(key=flight.key, reason=reason))

    def decodes(self, flight: Flight, identity: Identity) -> bool:
        """Whether this worker goes on with it, as far as is known here."""
        part = flight.holders.get(identity)
        return flight.prefilled and (part == "local" or (part == "decode" and flight.admitted))

    def facts(self, flight: Flight) -> RequestFacts:
        layout = self._registry.layout
        return RequestFacts(
            tokens=flight.num_tokens,
            blocks=0 if layout is None else layout.blocks_for(flight.num_tokens + 1),
            remaining=flight.request.sampling.max_tokens - len(flight.accepted),
            recompute=flight.trouble.recompute,
        )

    # -- inside ------------------------------------------------------------------------------

    def _send(
        self, flight: Flight, decision: Decision, facts: RequestFacts, held: Mapping[Identity, int]
    ) -> None:
        decode = self._worker(decision.decode)
        decode.hold_decode(flight)
        decode.promise(flight, facts.blocks)
        flight.decision = decision
        if decision.prefill is None:
            decode.hold_prefill(flight, facts.tokens)
            flight.holders = {decode.identity: "local"}
            lender = self._lending.arrange(flight, decode, held)
            decode.send(Generate(request=flight.request, lender=lender.ref if lender else None))
            return
        prefill = self._worker(decision.prefill)
        prefill.hold_prefill(flight, facts.tokens)
        prefill.promise(flight, facts.blocks)
        flight.holders = {decode.identity: "decode", prefill.identity: "prefill"}
        decode.send(Reserve(request=flight.request, prefill=prefill.ref))
        lender = self._lending.arrange(flight, prefill, held)
        prefill.send(Prefill(
            request=flight.request, decode=decode.ref, lender=lender.ref if lender else None
        ))

    def _worker(self, identity: Identity) -> Worker:
        worker = self._registry.get(identity)
        assert worker is not None, "the policy chose a worker that it was not given"
        return worker

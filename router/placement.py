"""Which worker holds what of a flight: sending an attempt out, and taking it back.

    decision            holders of the attempt
    local               one, as "local", to the end
    remote              "prefill" until the first token is here and the decode worker has admitted
                        the request; "decode" to the end
    migration           the worker that it leaves is as "prefill", the next one "decode"

A worker counts as holding something from the moment of sending, whatever it may answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from baton.protocol.ids import Identity
from baton.protocol.records import Cancel, Generate, Prefill, Reserve
from baton.router.affinity import Sessions
from baton.router.candidates import PATIENT, Candidate, RequestFacts
from baton.router.flight import Dispatch, Flight
from baton.router.lane_room import LaneRoom
from baton.router.learning import Learning
from baton.router.lending import Lending
from baton.router.loans import Lender
from baton.router.policy import Decide, Decision, Wait, decide
from baton.router.prediction import room_in
from baton.router.registry import Registry, Worker
from baton.router.restraint import better_to_wait
from baton.router.severed import Pair
from baton.router.vitals import Vitals


class Placement:
    """`strict_roles`: workers keep to their roles, whatever that costs. `decide`: another policy,
    to compare with."""

    def __init__(
        self,
        registry: Registry,
        lending: Lending,
        learning: Learning,
        lane_room: LaneRoom,
        vitals: Vitals,
        *,
        strict_roles: bool = False,
        decide: Decide = decide,
    ) -> None:
        self._decide = decide
        self._registry = registry
        self._lending = lending
        self._learning = learning
        self._lane_room = lane_room
        self._vitals = vitals
        self._strict_roles = strict_roles
        self._sessions = Sessions()
        self.on_release: Callable[[Flight], None] = lambda flight: None
        """Called when nothing of an attempt is wanted any more."""

    def place(
        self, flight: Flight, now: float, behind: tuple[int, float] = (0, 0.0)
    ) -> Decision | Wait:
        """Send the flight's attempt if workers can take it; otherwise say why not. `behind`: who
        waits with it, as `RequestFacts` has it."""
        facts = self.facts_now(flight, now, behind)
        decision = self.decision(flight, facts, now)
        if isinstance(decision, Decision):
            self._send(flight, decision, facts, now)
            self._vitals.sent(flight, now)
            flight.trouble.was_running = True
            flight.starved_since = None
        return decision

    def decision(self, flight: Flight, facts: RequestFacts, now: float) -> Decision | Wait:
        """What `place` would do. `facts`: those of now."""
        candidates = self._lane_room.for_flight(
            flight, self._registry.candidates(urgent=facts.urgent)
        )
        exclude = flight.excluded(now) | self._vitals.avoided(now)
        decision: Decision | Wait | None = self._probe(facts, candidates, exclude, now)
        if decision is None:
            decision = self._decide(facts, candidates, exclude, now)
        if isinstance(decision, Decision) and not flight.begun and better_to_wait(
            decision, facts, candidates,
            self._lane_room.interval(flight, decision.decode, now),
        ):
            return Wait.BUSY
        return decision

    def has_place(self, flight: Flight, now: float) -> bool:
        """Whether there is a worker for it."""
        return isinstance(self.decision(flight, self.facts_now(flight, now), now), Decision)

    def may_move(self, source: Identity, target: Identity, now: float) -> bool:
        """Whether what decodes at one can be handed to the other, as far as is known of both and
        of the way between them."""
        avoided, severed = self._vitals.avoided(now), self._vitals.severed(now, trials=False)
        return target not in avoided and (source, target) not in severed

    def room_in(self, now: float) -> float | None:
        """Seconds until some worker that has enough prompts now can do with another. None when
        that is not a matter of time."""
        views = (self._registry.candidates(urgent=urgent) for urgent in (False, True))
        return min(
            (room for view in views if (room := room_in(view, now)) is not None), default=None
        )

    def first_token(self, flight: Flight, now: float) -> None:
        """The prefill of this attempt is over, wherever it ran."""
        self._learning.first_token(flight)
        for identity, part in list(flight.holders.items()):
            worker = self._registry.get(identity)
            if worker is not None and part != "decode":
                self._lending.computed(flight, identity)
                worker.end_prefill(flight, now)
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
        if flight.holders.pop(identity, None) is not None:
            self._vitals.left(identity)
        worker = self._registry.get(identity)
        if worker is not None:
            worker.forget(flight, _now())

    def release(self, flight: Flight, reason: str | None) -> None:
        """Nothing of the current attempt is wanted any more: tell all holders, unless (None) they
        know by themselves."""
        self.on_release(flight)
        self._vitals.over(flight)
        self._lending.released(flight, reason)
        self._learning.over(flight)
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
        """Without what changes from moment to moment."""
        return self._facts(flight, None, {}, (), (), ())

    def facts_now(
        self, flight: Flight, now: float, behind: tuple[int, float] = (0, 0.0)
    ) -> RequestFacts:
        """All that a decision is made from."""
        held = self._lending.held(flight)
        lenders = self._lending.lenders(flight, held)
        due = None if flight.due is None else flight.due - now
        affinity = self._sessions.workers(flight.affinity)
        # A client that has tokens would see a gap if it came to nothing.
        severed = self._vitals.severed(now, trials=not flight.begun)
        return self._facts(flight, due, held, lenders, affinity, severed, behind)

    # -- inside ------------------------------------------------------------------------------

    def _facts(
        self,
        flight: Flight,
        due_in: float | None,
        held: Mapping[Identity, int],
        lenders: Sequence[Lender],
        affinity: Collection[Identity],
        severed: Collection[Pair],
        behind: tuple[int, float] = (0, 0.0),
    ) -> RequestFacts:
        layout, request, tokens = self._registry.layout, flight.request, flight.num_tokens
        targets = request.targets
        return RequestFacts(
            tokens=tokens,
            blocks=0 if layout is None else layout.blocks_for(tokens + 1),
            remaining=request.sampling.max_tokens - len(flight.accepted),
            recompute=flight.trouble.recompute,
            expected=self._learning.outputs.expected(request.lane),
            due_in=due_in,
            behind=behind,
            ttft=targets.ttft,
            itl=targets.itl,
            firm=targets.firm,
            strict_roles=self._strict_roles,
            tightest=self._learning.tightest,
            held=held,
            block_size=16 if layout is None else layout.block_size,
            token_bytes=0 if layout is None else layout.block_bytes // layout.block_size,
            affinity=affinity,
            lenders=lenders,
            severed=severed,
        )

    def _probe(
        self, facts: RequestFacts, candidates: list[Candidate], exclude: set[Identity], now: float
    ) -> Decision | None:
        """With the worker that has been slow or failing and is to be tried again. Left to its cost
        it would never be, for it has been learned that it is slow."""
        chosen = self._vitals.to_probe(now)
        if chosen is None or chosen in exclude or facts.recompute:
            return None
        role = next((c.role for c in candidates if c.identity == chosen), None)
        others = {c.identity for c in candidates if c.role == role and c.identity != chosen}
        decision = self._decide(facts, candidates, exclude | others, now)
        if isinstance(decision, Decision) and chosen in (decision.decode, decision.prefill):
            return decision
        return None

    def _send(self, flight: Flight, decision: Decision, facts: RequestFacts, now: float) -> None:
        decode = self._worker(decision.decode)
        decode.hold_decode(flight)
        decode.promise(flight, facts.blocks)
        flight.decision = decision
        self._learning.dispatched(facts, now)
        flight.dispatches.append(Dispatch(decision, now))
        self._sessions.served(flight.affinity, decision.decode, decision.prefill)
        work = 0.0 if decision.prediction is None else decision.prediction.prefill
        request = flight.request
        if facts.due_in is not None:
            due_in = max(facts.due_in, PATIENT) if facts.patient else facts.due_in
            request = msgspec.structs.replace(request, due_in=due_in)
        if decision.prefill is None:
            decode.hold_prefill(flight, facts.tokens, work, now)
            flight.holders = {decode.identity: "local"}
            lender = self._lending.arrange(flight, decode, decision.loan)
            decode.send(Generate(request=request, lender=lender.ref if lender else None))
            return
        prefill = self._worker(decision.prefill)
        prefill.hold_prefill(flight, facts.tokens, work, now)
        prefill.promise(flight, facts.blocks)
        flight.holders = {decode.identity: "decode", prefill.identity: "prefill"}
        decode.send(Reserve(request=request, prefill=prefill.ref))
        lender = self._lending.arrange(flight, prefill, decision.loan)
        prefill.send(Prefill(
            request=request, decode=decode.ref, lender=lender.ref if lender else None
        ))

    def _worker(self, identity: Identity) -> Worker:
        worker = self._registry.get(identity)
        assert worker is not None, "the policy chose a worker that it was not given"
        return worker


def _now() -> float:
    return asyncio.get_running_loop().time()

"""The workers that a router knows: who they are, what they last said, what they hold for us.

    WorkerHello --add--> ready <--Load--> draining
                           |                 |
                           +--session lost---+--> lost (shown for a while, holds nothing)

One entry per worker id; a new epoch replaces the old one, whose session was ended before. The
registry owns the sessions' entries, the dispatcher what the workers hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.kvlayout import KVLayout, why_unmappable
from baton.protocol.link import Session
from baton.protocol.records import (
    Curves,
    Generate,
    Load,
    ModelCard,
    Prefill,
    Record,
    Reserve,
    SetDraining,
    WorkerHello,
    WorkerRef,
)
from baton.router.accuracy import Accuracy
from baton.router.backlog import Backlog
from baton.router.candidates import ROLES, Candidate, is_patient
from baton.router.flight import Flight
from baton.router.speed import COUNTING, WorkerModel
from baton.router.worker_view import WorkerView, view_of

CERTAIN_BLAME = 2
POSSIBLE_BLAME = 1
"""For a worker's death, see `Worker.blame`."""

SHOW_LOST = 300.0
"""Seconds that a lost worker stays in the list."""


@dataclass(slots=True, eq=False)
class Worker:
    """One life of one worker."""

    hello: WorkerHello
    session: Session
    joined: float
    role: str
    state: str = "ready"
    drained: bool = False
    """Somebody asked us for it to be emptied, and it has not yet said that it is draining. From
    then on its word counts, so that any of its routers may call it off."""
    load: Load | None = None
    heard: float = 0.0
    """When the last heartbeat arrived."""
    curves: Curves | None = None
    """What it last said of its speed."""
    links: dict[str, LinkCurve] = field(default_factory=dict)
    """Likewise of its links, by the receiver's worker id."""
    accuracy: Accuracy = field(default_factory=Accuracy)
    backlog: Backlog[Flight] = field(default_factory=Backlog)
    rush: Backlog[Flight] = field(default_factory=Backlog)
    """Of the same, without those that give way to urgent ones."""
    decoding: set[Flight] = field(default_factory=set)
    """By `hold_decode` and `end_decode`."""
    _intervals: dict[Flight, float] = field(default_factory=dict)
    """Of these, the firm targets: the worker's steps do not care for others."""
    prefilling: dict[Flight, int] = field(default_factory=dict)
    """Flights whose first token it owes, with their prompt tokens."""
    prefill_tokens: int = 0
    recomputing: dict[Flight, int] = field(default_factory=dict)
    """Of `prefilling`, the flights whose KV went with a lost worker."""
    sent: dict[RequestKey, int] = field(default_factory=dict)
    """Number of the last record that gave it this attempt."""
    promised: dict[Flight, int] = field(default_factory=dict)
    """Flights sent since the last heartbeat. What they will take of this worker is counted in its
    own blocks, which may be of another size than the cluster's."""
    full: bool = False
    """It declined a request for lack of room, and has not been heard of, nor has anything of it
    ended, since."""
    _tokens: float = 0.0
    """That a request which has always decoded here would have had by `_tokens_at`, by the curve and
    the load at each time."""
    _tokens_at: float = 0.0
    _interval: float = 0.0
    known: Candidate | None = None
    """As the policy sees it, until something changes. (That its flights grow it learns by the next
    heartbeat.)"""

    @property
    def identity(self) -> Identity:
        return self.hello.identity

    @property
    def ref(self) -> WorkerRef:
        return WorkerRef(self.identity, self.hello.peer_address)

    @property
    def available(self) -> bool:
        """Whether it takes new requests."""
        return self.state == "ready" and not self.drained and self.session.is_open

    @property
    def leaving(self) -> bool:
        """Whether what it has shall go elsewhere."""
        return self.state == "draining" or (self.state == "ready" and self.drained)

    @property
    def outstanding(self) -> int:
        return len(self.decoding | self.prefilling.keys())

    def send(self, record: Record) -> None:
        """To a session that just ended this is nothing: its loss is about to be reported."""
        if not self.session.is_open:
            return
        number = self.session.send(record)
        if isinstance(record, Prefill | Reserve | Generate):
            self.sent[record.request.key] = number

    def blame(self, flight: Flight) -> int:
        """How far its death can be the fault of this flight: not at all when the request never
        left for it, a little when it may not have arrived. (Not nothing then: a request that
        kills at once leaves no receipt either, and would go on to kill all the others.)"""
        number = self.sent.get(flight.key)
        if number is None or self.session.has_acknowledged(number):
            return CERTAIN_BLAME
        return POSSIBLE_BLAME if self.session.was_handed_out(number) else 0

    def hear(self, load: Load, now: float) -> None:
        """Its heartbeat."""
        self.load, self.role, self.state, self.heard = load, load.role, load.state, now
        if self.drained and load.state == "draining" and self.session.speaks(SetDraining):
            self.drained = False
        self.promised.clear()
        self._tokens, self._tokens_at = self.tokens_by(now), now
        self._hear_of_others(load, now)
        self._changed()

    def tokens_by(self, now: float) -> float:
        """For the difference of two times: how many tokens a request that decodes here should have
        got between them, as predictions go before they are corrected."""
        if self._interval <= 0:
            return self._tokens
        return self._tokens + max(0.0, now - self._tokens_at) / self._interval

    def learn(self, curves: Curves) -> None:
        """What it says of its speed."""
        self.curves, self.links = curves, dict(curves.links)
        self.known = None

    def forget_corrections(self) -> None:
        """It is another than it was."""
        self.accuracy = Accuracy()
        self.corrected()

    def corrected(self) -> None:
        """Something was learned of how good predictions are."""
        self.known = None

    def had_no_room(self) -> None:
        """It declined a request that would have fitted by our books."""
        self.full = True
        self.known = None

    def promise(self, flight: Flight, blocks: int) -> None:
        """It will take so many of the cluster's blocks."""
        self.promised[flight] = blocks
        self.known = None

    def break_promise(self, flight: Flight) -> None:
        self.promised.pop(flight, None)
        self.known = None

    def hold_decode(self, flight: Flight) -> None:
        self.decoding.add(flight)
        targets = flight.request.targets
        if targets.firm and targets.itl is not None:
            self._intervals[flight] = targets.itl
        self.known = None

    def end_decode(self, flight: Flight) -> None:
        self.decoding.discard(flight)
        self._intervals.pop(flight, None)
        self._changed()

    def hold_prefill(
        self, flight: Flight, tokens: int, work: float = 0.0, now: float = 0.0
    ) -> None:
        """`work`: seconds that its prompt should take."""
        self.known = None
        self.backlog.add(flight, work, now)
        if not is_patient(flight.request.targets.ttft):
            self.rush.add(flight, work, now)
        self.prefilling[flight] = tokens
        self.prefill_tokens += tokens
        if flight.trouble.recompute and tokens:
            self.recomputing[flight] = tokens

    def end_prefill(self, flight: Flight, now: float = 0.0) -> None:
        self.backlog.drop(flight, now)
        self.rush.drop(flight, now)
        self.prefill_tokens -= self.prefilling.pop(flight, 0)
        self.recomputing.pop(flight, None)
        self._changed()

    def empty(self) -> None:
        """It is lost, and with it all that it held."""
        for held in (self.decoding, self._intervals, self.prefilling, self.promised,
                     self.recomputing):
            held.clear()
        self.backlog, self.rush = Backlog(), Backlog()

    def _changed(self) -> None:
        """It may have room again."""
        self.full = False
        self.known = None

    def forget(self, flight: Flight, now: float = 0.0) -> None:
        self.sent.pop(flight.key, None)
        self.end_decode(flight)
        self.break_promise(flight)
        self.end_prefill(flight, now)

    def candidate(self, cluster: KVLayout, guess: StepCurve) -> Candidate:
        """Its blocks are counted in those of the cluster, which is always the same. `guess`: for
        its speed, while it has said nothing of it."""
        if self.known is None:
            self.known = self._as_candidate(cluster, guess)
        return self.known

    def _as_candidate(self, cluster: KVLayout, guess: StepCurve) -> Candidate:
        context, ours, size = 0, 0, self.hello.layout.block_size
        decoding, prefilling = self.decoding, self.prefilling
        for flight in decoding:
            tokens = flight.num_tokens
            context += tokens
            ours += tokens // size + 1
        for flight in prefilling:
            if flight not in decoding:
                ours += flight.num_tokens // size + 1
        known = Candidate(
            identity=self.hello.identity,
            role=self.role,
            max_running=self.hello.max_running,
            decoding=len(decoding),
            prefilling=len(prefilling),
            available_blocks=self._available_blocks(ours) * size // cluster.block_size,
            recompute_tokens=sum(self.recomputing.values()) if self.recomputing else 0,
            full=self.full,
            model=self._model(context, guess, self.backlog),
        )
        if len(self.rush) == len(self.backlog):
            return known
        model = self._model(context, guess, self.rush)
        return msgspec.structs.replace(
            known, urgent=msgspec.structs.replace(known, model=model)
        )

    def _available_blocks(self, ours: int) -> int:
        """Of its own size, the better of two estimates. Its last heartbeat misses what ended since;
        our own books, by which it has `ours`, miss what requests share and what other routers sent.
        The worker knows, and declines."""
        load, layout = self.load, self.hello.layout
        if load is None:
            return self.hello.num_blocks - ours
        blocks, size = load.blocks, layout.block_size
        promised = sum([flight.num_tokens // size + 1 for flight in self.promised])
        waiting = layout.blocks_for(load.waiting_tokens)  # also what it had to preempt
        by_heartbeat = blocks.free + blocks.cached - promised - waiting
        return max(by_heartbeat, self.hello.num_blocks - blocks.quarantined - ours)

    def _model(self, context: int, guess: StepCurve, backlog: Backlog[Flight]) -> WorkerModel:
        """`context`: tokens that our own requests attend to that decode here. `backlog`: the
        prompts that are not passed over."""
        decoding, load = len(self.decoding), self.load
        if load is not None and load.decoding > decoding:
            # What other routers sent; its own books are not older than ours by much.
            context += load.decode_context * (load.decoding - decoding) // load.decoding
            decoding = load.decoding
        model = WorkerModel(
            curve=None if self.curves is None else self.curves.step,
            guess=guess,
            decoding=decoding,
            context=context,
            itl=min(self._intervals.values(), default=None),
            head_until=backlog.head_until,
            head_work=backlog.head_work,
            queued=backlog.queued,
            pressure=self.rush.pressure(self.heard),
            typical=self.rush.typical,
            shared=len(self.backlog) > len(backlog),
            most=min(self.hello.prefill_chunk, self.hello.max_batch_tokens),
            links=self.links,
            correction=self.accuracy.correction,
        )
        self._interval = model.steady / model.correction.decode
        return model

    def _hear_of_others(self, load: Load, now: float) -> None:
        """Prompts that it has and we have not sent: another router's, or a request's that it had
        to preempt."""
        foreign = load.waiting_tokens - self.prefill_tokens
        if foreign <= 0:
            self._hear(0.0, now)
            return
        seconds = load.backlog_seconds
        if seconds is None:
            step = COUNTING if self.curves is None or self.curves.step is None else self.curves.step
            seconds = step.token * load.waiting_tokens
        self._hear(seconds * foreign / load.waiting_tokens, now)

    def _hear(self, seconds: float, now: float) -> None:
        """Whether these give way to others is not known."""
        self.backlog.hear_of_others(seconds, now)
        self.rush.hear_of_others(seconds, now)


class Registry:
    """`model`: the card that workers must match; otherwise the first one's counts."""

    def __init__(self, model: ModelCard | None = None) -> None:
        self.model = model
        self.layout: KVLayout | None = None
        self.last_loss = float("-inf")
        self._workers: dict[str, Worker] = {}
        self._lost: dict[str, tuple[Worker, float]] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, identity: Identity) -> Worker | None:
        """The worker in this very life."""
        worker = self._workers.get(identity.node_id)
        return worker if worker is not None and worker.identity == identity else None

    def named(self, node_id: str) -> Worker | None:
        """The worker that lives under this id."""
        return self._workers.get(node_id)

    def candidates(self, *, urgent: bool = False) -> list[Candidate]:
        """`urgent`: as `RequestFacts.urgent`."""
        if self.layout is None:
            return []
        layout, guess = self.layout, self._guess()
        # For every decision, over all workers: hence not by way of `Worker.available`.
        found = [
            worker.known or worker.candidate(layout, guess)
            for worker in self._workers.values()
            if worker.state == "ready" and not worker.drained and worker.session.is_open
        ]
        return [worker.urgent or worker for worker in found] if urgent else found

    def _guess(self) -> StepCurve:
        """For a worker that has said nothing of its speed: another one's."""
        for worker in self._workers.values():
            if worker.curves is not None and worker.curves.step is not None:
                return worker.curves.step
        return COUNTING

    def check(self, hello: WorkerHello) -> None:
        """Raises BatonError that names what does not fit the cluster."""
        name = hello.identity.node_id
        if hello.role not in ROLES:
            raise _refusal(f"worker {name}: role {hello.role!r} is none of {', '.join(ROLES)}")
        if hello.max_running < 1 or hello.num_blocks < 1:
            raise _refusal(
                f"worker {name} has room for nothing: max_running {hello.max_running}, "
                f"{hello.num_blocks} blocks"
            )
        if hello.prefill_chunk < 1 or hello.max_batch_tokens < 1:
            raise _refusal(
                f"worker {name} has no room for prompts in its steps: prefill_chunk "
                f"{hello.prefill_chunk}, max_batch_tokens {hello.max_batch_tokens}"
            )
        if self.model is not None and hello.model.fingerprint != self.model.fingerprint:
            raise _refusal(
                f"worker {name} serves {hello.model.name} (fingerprint "
                f"{hello.model.fingerprint}), this cluster {self.model.name} (fingerprint "
                f"{self.model.fingerprint})"
            )
        if self.layout is not None:
            # Any two workers may meet, in either direction: roles change.
            why = why_unmappable(hello.layout, self.layout) or why_unmappable(
                self.layout, hello.layout
            )
            if why is not None:
                raise _refusal(
                    f"worker {name} has a KV layout that cannot be mapped onto this cluster's: "
                    f"{why}"
                )

    def add(self, hello: WorkerHello, session: Session, now: float) -> Worker:
        """Enter a worker whose hello was checked. Its id must not be live."""
        self.check(hello)
        if self.model is None:
            self.model = hello.model
        if self.layout is None:
            self.layout = hello.layout
        name = hello.identity.node_id
        if name in self._workers:
            raise _refusal(f"worker {name} is here already")
        self._lost.pop(name, None)
        worker = Worker(hello, session, joined=now, role=hello.role)
        self._workers[name] = worker
        return worker

    def lose(self, worker: Worker, now: float) -> None:
        """Its session is over. Idempotent."""
        if self._workers.get(worker.identity.node_id) is worker:
            del self._workers[worker.identity.node_id]
            self._lost[worker.identity.node_id] = (worker, now)
        self._forget_lost(now)
        worker.state = "lost"
        self.last_loss = now

    def views(self, now: float) -> list[WorkerView]:
        """All workers by id, the ones lost in the last SHOW_LOST seconds included."""
        self._forget_lost(now)
        workers = [*self._workers.values(), *(worker for worker, _ in self._lost.values())]
        return sorted((view_of(worker, now) for worker in workers), key=lambda view: view.id)

    def _forget_lost(self, now: float) -> None:
        for name, (_, since) in list(self._lost.items()):
            if now - since > SHOW_LOST:
                del self._lost[name]


def _refusal(message: str) -> BatonError:
    return BatonError("invalid_value", message)

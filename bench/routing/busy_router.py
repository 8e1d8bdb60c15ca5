"""A router with many busy workers whose caches are full: all that a decision is made from."""

from __future__ import annotations

from random import Random

from baton.bench.routing.caches import BLOCK_SIZE, PROMPT_TOKENS, Caches
from baton.protocol.cache_events import CacheDump, CacheEvents, pack_names
from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import Session
from baton.protocol.records import (
    BlockCounts,
    Curves,
    Load,
    ModelCard,
    Request,
    RouterHello,
    Targets,
    WorkerHello,
)
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens
from baton.router.candidates import RequestFacts
from baton.router.flight import Flight
from baton.router.known_prefixes import KnownPrefixes
from baton.router.lane_room import LaneRoom
from baton.router.lanes import INTERACTIVE, Lanes, configure
from baton.router.learning import Learning
from baton.router.lending import Lending
from baton.router.observer import NoObserver
from baton.router.placement import Placement
from baton.router.policy import Decision, Wait
from baton.router.registry import Registry, Worker
from baton.router.vitals import Vitals

FLIGHTS = 16
"""Requests that each worker holds."""
STEP = StepCurve(
    base=8e-3, chunk=1e-3, token=5e-5, pair=1e-9, decode=1e-4, context=1e-7, spread=0.1, steps=1000
)
LINK = LinkCurve(latency=1e-3, byte=1e-10, spread=0.2, transfers=100)
NOW = 0.05
TTFT, ITL = 1.0, 0.1
LENGTH = 2048
"""Prompt tokens of the requests that workers hold."""


def identity(number: int) -> Identity:
    return Identity(f"worker-{number}", number + 1)


class NamedBlocks(Lending):
    """Of prompts whose blocks have names already: nothing is hashed."""

    names_now: list[bytes]

    def _chain(self, flight: Flight) -> list[bytes]:
        return self.names_now


class FullCaches:
    """What workers' caches hold, as they have told it."""

    def __init__(self, blocks: int) -> None:
        self.known = KnownPrefixes()
        self.contents = Caches(blocks)
        self.workers = 0
        self._blocks = blocks

    def add_worker(self) -> None:
        """The next one."""
        worker, known = identity(self.workers), self.known
        known.join(worker, 2 * self._blocks)
        known.on_record(worker, CacheDump(dump=1, sequence=0, part=0, parts=1, names=b""), 0.0)
        for number, names in enumerate(self.contents.worker(self.workers), 1):
            batch = CacheEvents(sequence=number, stored=pack_names(names), evicted=b"")
            known.on_record(worker, batch, 0.0)
        self.workers += 1


class BusyRouter:
    """Half of the workers read prompts, half decode; each holds FLIGHTS requests."""

    def __init__(self, caches: FullCaches) -> None:
        self.registry = Registry()
        self._random = Random(4)
        self._request = _request(LENGTH)
        observer, lanes = NoObserver(), Lanes(configure(TTFT, ITL))
        links = tuple((identity(number).node_id, LINK) for number in range(caches.workers))
        for number in range(caches.workers):
            role = "mixed" if caches.workers == 1 else ("prefill", "decode")[number % 2]
            self._join(_hello(number, role)).learn(Curves(step=STEP, links=links))
        everyone = list(self.registry)
        self.readers = [worker for worker in everyone if worker.role != "decode"]
        self.writers = [worker for worker in everyone if worker.role != "prefill"]
        self._lending = NamedBlocks(self.registry, observer, caches.known)
        self._vitals = Vitals(self.registry, observer)
        lane_room = LaneRoom(self.registry, lanes)
        lane_room.arrived(INTERACTIVE, 0.0)
        learning = Learning(self.registry, observer)
        learning.tightest = (TTFT, TTFT + 100 * ITL)
        self.placement = Placement(
            self.registry, self._lending, learning, lane_room, self._vitals
        )
        self.flight = Flight(_request(PROMPT_TOKENS), 0, 0.0, _nothing)

    def ask(self, names: list[bytes]) -> None:
        """The next prompt. As by the decision before it, one worker has got another prompt and one
        has got another request to decode; one has sent its heartbeat."""
        self._lending.names_now = names
        reader, writer = self._random.choice(self.readers), self._random.choice(self.writers)
        flight = next(iter(reader.prefilling))
        reader.end_prefill(flight, 0.0)
        reader.hold_prefill(flight, LENGTH, self._work(), 0.0)
        reader.promise(flight, LENGTH // BLOCK_SIZE + 1)
        flight = next(iter(writer.decoding))
        writer.end_decode(flight)
        writer.hold_decode(flight)
        self._hear(writer)
        writer.promise(flight, LENGTH // BLOCK_SIZE + 1)

    def facts(self) -> RequestFacts:
        return self.placement.facts_now(self.flight, NOW)

    def decision(self, facts: RequestFacts) -> Decision | Wait:
        return self.placement.decision(self.flight, facts, NOW)

    def _join(self, hello: WorkerHello) -> Worker:
        identity = hello.identity
        session = Session(
            identity.epoch, 2, RouterHello(identity=identity), now=0.0, notify=_nothing
        )
        worker = self.registry.add(hello, session, 0.0)
        for place in range(FLIGHTS):
            flight = Flight(self._request, place, 0.0, _nothing)
            if hello.role == "prefill":
                worker.hold_prefill(flight, LENGTH, self._work(), 0.0)
            else:
                worker.hold_decode(flight)
                if hello.role == "mixed":
                    worker.hold_prefill(flight, LENGTH, self._work(), 0.0)
        self._hear(worker)
        return worker

    def _work(self) -> float:
        """Seconds, so that most workers are nearly through with the prompts that they have."""
        return self._random.uniform(0.0, 2 * NOW / FLIGHTS)

    def _hear(self, worker: Worker) -> None:
        blocks = worker.hello.num_blocks
        worker.hear(Load(
            role=worker.role, state="ready", waiting=0, running=FLIGHTS, handoffs=0,
            waiting_tokens=0, step_age=0.0, steps=1, preemptions=0,
            blocks=BlockCounts(
                free=blocks // 2, cached=blocks - blocks // 2, active=0, held=0, quarantined=0
            ),
        ), 0.0)


def _hello(number: int, role: str) -> WorkerHello:
    return WorkerHello(
        identity=identity(number),
        pid=1,
        host="host",
        role=role,
        model=ModelCard(
            fingerprint="f", name="model", max_model_len=8192, vocab_size=9, dtype="bfloat16"
        ),
        layout=KVLayout(2, 2, 8, BLOCK_SIZE, "bfloat16"),
        num_blocks=100_000,
        max_running=256,
        peer_address="inproc://none",
        device="none",
    )


def _request(tokens: int) -> Request:
    return Request(
        key=RequestKey("r", 0),
        choice=0,
        prompt=pack_tokens(range(tokens)),
        sampling=SamplingParams(seed=1, max_tokens=100),
        targets=Targets(ttft=TTFT, itl=ITL),
    )


def _nothing(*_: object) -> None:
    pass

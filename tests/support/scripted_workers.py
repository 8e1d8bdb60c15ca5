"""Scripted workers over real control sessions, for tests of the router core.

A scripted worker's output token at position i is 100 + i, so that a repeated, lost or misplaced
token shows.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from baton.protocol.ids import Identity, RequestKey, new_epoch
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import Dialer, LinkSettings, Session
from baton.protocol.records import (
    Admitted,
    BlockCounts,
    Cancel,
    Deadlines,
    Declined,
    Generate,
    Lend,
    Load,
    Migrate,
    ModelCard,
    Parked,
    Prefill,
    Record,
    Request,
    RequestFailed,
    Reserve,
    SetDraining,
    TokenBatch,
    TokenDelta,
    WorkerHello,
)
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens, unpack_tokens
from baton.router.control import RouterControl
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight

FAST = LinkSettings(
    ping_interval=0.05, lost_after=60.0, reconnect_grace=0.2, ack_delay=0.02, dial_backoff_max=0.2
)
MODEL = ModelCard(fingerprint="f", name="tiny", max_model_len=512, vocab_size=1000, dtype="float32")
LAYOUT = KVLayout(2, 2, 8, 16, "float32")
BLOCKS = BlockCounts(free=100, cached=0, active=0, held=0, quarantined=0)
LOAD = Load(
    role="mixed", state="ready", waiting=0, running=0, handoffs=0, waiting_tokens=0, blocks=BLOCKS,
    step_age=0.0, steps=0, preemptions=0,
)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.002)


class FakeWorker:
    """Does what a worker says, without an engine. `stop_at`: position before which it falls
    silent; `decline`, `fail`: answers to give instead of work, used up one by one."""

    def __init__(self, cluster: Cluster, name: str, role: str, *, max_running: int = 8) -> None:
        self.cluster = cluster
        self.identity = Identity(name, new_epoch())
        self.hello = WorkerHello(
            identity=self.identity, pid=1, host="h", role=role, model=MODEL, layout=LAYOUT,
            num_blocks=100, max_running=max_running, peer_address=f"ipc:///{name}", device="cpu",
        )
        self.session: Session | None = None
        self.seen: list[Record] = []
        self.refusals: list[str] = []
        self.stop_at: int | None = None
        self.decline: list[str] = []
        self.fail: list[str] = []
        self.seal = True
        self.parks: bool | None = True
        """How a Migrate is answered; None for not at all."""
        self.reserved: dict[RequestKey, Request] = {}
        self.sealed: set[RequestKey] = set()
        self.dialer = Dialer(
            self.identity, cluster.address, lambda: self.hello, self.opened, self.refusals.append,
            settings=FAST,
        )

    def opened(self, session: Session) -> None:
        self.session = session
        session.on_record = self.take

    def send(self, record: Record) -> None:
        assert self.session is not None
        if self.session.is_open:
            self.session.send(record)

    def take(self, record: Record) -> None:
        self.seen.append(record)
        if isinstance(record, Cancel | Lend | SetDraining):
            return
        if isinstance(record, Migrate):
            self.migrate(record)
            return
        assert isinstance(record, Generate | Prefill | Reserve)
        key = record.request.key
        if self.decline:
            self.send(Declined(key=key, reason=self.decline.pop(0)))
            return
        if self.fail:
            self.send(RequestFailed(key=key, code=self.fail.pop(0), message="cannot"))
            return
        match record:
            case Generate():
                self.run(record.request, len(unpack_tokens(record.request.accepted)))
            case Prefill():
                decode = self.cluster.workers[record.decode.identity]
                if self.seal:
                    decode.sealed.add(key)
                    decode.admit(key)
                self.run(record.request, len(unpack_tokens(record.request.accepted)), most=1)
            case Reserve():
                self.reserved[key] = record.request
                self.admit(key)

    def admit(self, key: RequestKey) -> None:
        if key in self.sealed and key in self.reserved:
            request = self.reserved[key]
            self.send(Admitted(
                key=key, transferred_bytes=1, cached_blocks=0, phases={"transfer": 0.5}
            ))
            self.run(request, len(unpack_tokens(request.accepted)) + 1)

    def migrate(self, record: Migrate) -> None:
        if self.parks is None:
            return
        self.send(Parked(key=record.key, parked=self.parks))
        if self.parks and self.seal:
            target = self.cluster.workers[record.decode.identity]
            target.sealed.add(record.key)
            target.admit(record.key)

    def run(self, request: Request, start: int, most: int = 1 << 30) -> None:
        end = request.sampling.max_tokens
        for position in range(start, min(end, start + most)):
            if self.stop_at is not None and position >= self.stop_at:
                return
            self.send(TokenBatch(deltas=(TokenDelta(
                key=request.key, position=position, tokens=(100 + position,),
                finish_reason="length" if position == end - 1 else None,
            ),)))

    def keys(self, kind: type[Record]) -> list[tuple[str, int]]:
        """Requests and attempts of the records of one kind that it got."""
        found = []
        for record in self.seen:
            if isinstance(record, kind):
                named = isinstance(record, Cancel | Migrate)
                key = record.key if named else record.request.key  # type: ignore[attr-defined]
                found.append((key.request_id, key.attempt))
        return found

    async def kill(self) -> None:
        """Gone without a word, as after SIGKILL."""
        if self.dialer.attempt is not None:
            self.dialer.attempt.pump.close()
        await self.dialer.close()


@dataclass
class Counts:
    """An observer that keeps what it is told."""

    decisions: list[tuple[str, str]] = field(default_factory=list)
    retries: list[str] = field(default_factory=list)
    migrations: list[str] = field(default_factory=list)
    lenders: int = 0
    finished: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    deaths: list[tuple[str, float]] = field(default_factory=list)
    redispatches: list[tuple[str, float]] = field(default_factory=list)
    circuits: list[tuple[str, bool, str]] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)

    def decision(self, route: str, reason: str) -> None:
        self.decisions.append((route, reason))

    def predicted(self, target: str, predicted: float, actual: float) -> None: ...

    def retry(self, reason: str) -> None:
        self.retries.append(reason)

    def migration(self, outcome: str) -> None:
        self.migrations.append(outcome)

    def lender_named(self) -> None:
        self.lenders += 1

    def flight_finished(self, outcome: str, phases: dict[str, float] | None = None) -> None:  # type: ignore[override]
        self.finished.append(outcome)
        self.phases.update(phases or {})

    def queue_depth(self, stage: str, depth: int) -> None: ...

    def queued(self, stage: str, seconds: float) -> None: ...

    def worker_load(self, worker_id: str, load: Load) -> None: ...

    def worker_metrics(self, worker_id: str, record: Record) -> None: ...

    def worker_gone(self, worker_id: str) -> None:
        self.gone.append(worker_id)

    def worker_died(self, cause: str, silence: float) -> None:
        self.deaths.append((cause, silence))

    def circuit(self, worker_id: str, is_open: bool, why: str) -> None:
        self.circuits.append((worker_id, is_open, why))

    def redispatched(self, waited_for: str, seconds: float) -> None:
        self.redispatches.append((waited_for, seconds))


class Cluster:
    def __init__(self, max_queue: int = 512) -> None:
        self.counts = Counts()
        self.dispatcher = Dispatcher(None, self.counts, max_queue=max_queue)
        self.control = RouterControl(Identity("router", 1), self.dispatcher, settings=FAST)
        self.workers: dict[Identity, FakeWorker] = {}
        self.address = ""
        self._names = itertools.count()

    async def add(self, name: str, role: str, **options: int) -> FakeWorker:
        worker = FakeWorker(self, name, role, **options)
        self.workers[worker.identity] = worker
        worker.dialer.start()
        await until(lambda: worker.session is not None)
        assert self.dispatcher.registry.get(worker.identity) is not None
        return worker

    def submit(
        self,
        max_tokens: int = 6,
        prompt: Sequence[int] | None = None,
        *,
        prompt_tokens: int = 20,
        **deadlines: float,
    ) -> Flight:
        return self.dispatcher.submit(Request(
            key=RequestKey(f"r{next(self._names)}", 0),
            choice=0,
            prompt=pack_tokens(range(prompt_tokens) if prompt is None else prompt),
            sampling=SamplingParams(seed=1, max_tokens=max_tokens),
            deadlines=Deadlines(**deadlines),
        ))

    def held(self) -> int:
        """What the router believes that workers hold."""
        return sum(w.outstanding + w.prefill_tokens for w in self.dispatcher.registry)


@asynccontextmanager
async def serving() -> AsyncIterator[Cluster]:
    """A cluster that takes workers; at the end nothing is held, queued or in flight."""
    made = Cluster()
    made.address = await made.control.bind("tcp://127.0.0.1:0")
    yield made
    assert made.held() == 0
    assert made.dispatcher.in_flight == made.dispatcher.queue_depth == 0
    assert all(not w.sent and not w.recomputing for w in made.dispatcher.registry)
    for worker in made.workers.values():
        await worker.dialer.close()
    await made.control.close()


async def read(flight: Flight) -> list[int]:
    """All tokens; asserts that positions follow on each other."""
    tokens: list[int] = []
    async for delta in flight.events():
        assert delta.position == len(tokens)
        tokens += delta.tokens
    return tokens

"""A prefill worker and a decode worker without a router: this stands for one, and has every request
split between them. For benchmarks and tests of the hand-off alone."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from baton.protocol.ids import Identity, RequestKey, new_epoch
from baton.protocol.link import Listener, Session
from baton.protocol.records import (
    Declined,
    Load,
    Prefill,
    Record,
    Request,
    RequestFailed,
    Reserve,
    RouterHello,
    TokenBatch,
    WorkerHello,
    WorkerMetrics,
    WorkerRef,
)
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens

ROLES = ("prefill", "decode")
READY_SECONDS = 90.0
REQUEST_SECONDS = 60.0


@contextlib.contextmanager
def worker(
    role: str,
    join: str,
    model: str | None,
    options: Sequence[str] = (),
    elsewhere: Sequence[str] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, ended on exit. `elsewhere`: the command that starts it somewhere."""
    command = (
        *elsewhere, sys.executable, "-P", "-m", "baton.deploy.cli", "worker",
        *([model] if model else []), "--role", role, "--id", role, "--join", join, *options,
    )  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Answer:
    """Seconds since the request was sent, by output position; and of the prefill, as its worker
    says."""

    tokens: list[int]
    arrived: list[float]
    prefill: float


@dataclass
class _Worker:
    session: Session
    ref: WorkerRef
    load: Load | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """By sample name; of phases of a hand-off as `name{phase}_sum` and so on."""


class WorkerPair:
    """One request at a time."""

    def __init__(self) -> None:
        self._identity = Identity("pair", new_epoch())
        self._listener = Listener(self._identity, self._on_session)
        self._workers: dict[str, _Worker] = {}
        self._news = asyncio.Event()
        self._tokens: dict[int, tuple[int, float]] = {}
        self._prefill = 0.0
        self._failed: Record | None = None

    async def start(self, address: str) -> None:
        """Listen, HOST:PORT, until both have joined. Raises TimeoutError."""
        await self.bind(address)
        await self.until_joined()

    async def bind(self, address: str) -> str:
        """The actual HOST:PORT."""
        bound = await self._listener.bind(f"tcp://{address}")
        return bound.removeprefix("tcp://")

    async def until_joined(self) -> None:
        await self.until(lambda: len(self._workers) == len(ROLES), READY_SECONDS)

    async def close(self) -> None:
        await self._listener.close()

    def metric(self, name: str, role: str = "prefill") -> float:
        """As last told; 0 when it never was."""
        return self._workers[role].metrics.get(name, 0.0)

    async def request(
        self, number: int, prompt: Sequence[int], max_tokens: int, *, grant_first: bool = False
    ) -> Answer:
        """`grant_first`: the prompt is not sent before its grant is where it will be computed.
        Raises TimeoutError, or RuntimeError when it failed."""
        self._tokens.clear()
        request = Request(
            key=RequestKey(f"r{number}", 1),
            choice=0,
            prompt=pack_tokens(prompt),
            sampling=SamplingParams(seed=number, max_tokens=max_tokens, temperature=0.0),
        )
        p, d = (self._workers[role] for role in ROLES)
        began = time.perf_counter()
        d.session.send(Reserve(request=request, prefill=p.ref))
        if grant_first:
            p.load = None
            await self.until(lambda: p.load is not None and p.load.handoffs > 0)
        p.session.send(Prefill(request=request, decode=d.ref))
        await self.until(lambda: len(self._tokens) == max_tokens)
        tokens, arrived = zip(*(self._tokens[at] for at in range(max_tokens)), strict=True)
        return Answer(list(tokens), [at - began for at in arrived], self._prefill)

    async def until_clean(self) -> None:
        """Nothing runs, waits, or is held or quarantined, by the next heartbeats. Raises
        TimeoutError."""
        for each in self._workers.values():
            each.load = None
        await self.until(lambda: all(_is_clean(each.load) for each in self._workers.values()))

    async def until(
        self, condition: Callable[[], bool], seconds: float = REQUEST_SECONDS
    ) -> None:
        """Raises TimeoutError, or RuntimeError when a request failed."""
        async with asyncio.timeout(seconds):
            while not condition():
                if self._failed is not None:
                    raise RuntimeError(f"a worker says {self._failed}")
                self._news.clear()
                await self._news.wait()

    def _on_session(self, session: Session) -> RouterHello:
        hello = session.peer_hello
        assert isinstance(hello, WorkerHello)
        known = _Worker(session, WorkerRef(hello.identity, hello.peer_address))
        self._workers[hello.role] = known
        session.on_record = lambda record: self._on_record(known, record)
        self._news.set()
        return RouterHello(identity=self._identity)

    def _on_record(self, known: _Worker, record: Record) -> None:
        now = time.perf_counter()
        match record:
            case TokenBatch():
                for delta in record.deltas:
                    for offset, token in enumerate(delta.tokens):
                        self._tokens[delta.position + offset] = (token, now)
                    if delta.phases and "prefill" in delta.phases:
                        self._prefill = delta.phases["prefill"]
            case WorkerMetrics():
                for _, sample, labels, value in record.samples:
                    name, phase = sample, labels.get("phase")
                    if phase is not None:
                        base, _, kind = sample.rpartition("_")
                        name = f"{base}{{{phase}}}_{kind}"
                    known.metrics[name] = value
            case Load():
                known.load = record
            case Declined() | RequestFailed():
                self._failed = record
        self._news.set()


def _is_clean(load: Load | None) -> bool:
    if load is None or load.waiting or load.running or load.handoffs:
        return False
    blocks = load.blocks
    return not (blocks.active or blocks.held or blocks.quarantined)

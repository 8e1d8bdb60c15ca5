"""A worker without a model and without processes: the real stages, engine, sessions and hand-off
machines on the test's event loop, with a runner whose KV memory really has to arrive."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import numpy as np
from fake_runner import FakeRunner

from baton.decode import DecodeStage
from baton.deploy.worker.curves import CurveKeeper
from baton.deploy.worker.metrics import Metrics
from baton.deploy.worker.worker import Worker
from baton.engine.block_pool import BlockPool
from baton.engine.core import Engine
from baton.engine.limits import SchedulerLimits
from baton.engine.scheduler import Scheduler
from baton.kvtransfer.checksum import ChecksumQueue
from baton.kvtransfer.inproc import InprocTransport
from baton.kvtransfer.memory import blocks_of
from baton.kvtransfer.mover import BlockMover
from baton.kvtransfer.peers import IncomingPeers, OutgoingPeers
from baton.kvtransfer.tags import TagIssuer
from baton.prefill import Overlaps, PrefillStage
from baton.protocol.ids import Identity, RequestKey, host_id, new_epoch
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import Dialer
from baton.protocol.records import PeerHello, Record, TokenDelta, WorkerRef

BLOCK_SIZE = 4
LAYOUT = KVLayout(1, 1, 1, BLOCK_SIZE, "float32")


class CapturedLinks:
    """Stands for the sessions with routers: keeps what would be sent."""

    routers: tuple[Identity, ...] = ()

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.deltas: list[TokenDelta] = []
        self.owned: set[RequestKey] = set()
        self.changed = asyncio.Event()

    def own(self, key: RequestKey, router: Identity) -> None:
        self.owned.add(key)

    def tell(self, key: RequestKey, record: Record) -> None:
        if key in self.owned:
            self.records.append(record)
            self.changed.set()

    def forget(self, key: RequestKey) -> None:
        self.owned.discard(key)
        self.changed.set()

    def tell_all(self, record: Record) -> None:
        """Heartbeats are of no interest here."""

    def publish(self, deltas: list[TokenDelta]) -> None:
        if deltas:
            self.deltas += [delta for delta in deltas if delta.key in self.owned]
            self.changed.set()

    def tokens(self, request_id: str) -> list[int]:
        return [t for d in self.deltas if d.key.request_id == request_id for t in d.tokens]


class MiniWorker:
    def __init__(
        self, name: str, role: str, num_blocks: int, max_batch_tokens: int = 16,
        kv_checksum: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.identity = Identity(name, new_epoch())
        self.runner = FakeRunner(num_blocks, BLOCK_SIZE)
        memory = np.full((num_blocks, BLOCK_SIZE), -1, np.int64)
        self.runner.memory = memory  # type: ignore[assignment]  # rows of slots, as in the list

        def block_buffer(block: int) -> object:
            return memory[block].view(np.uint8)

        self.memory = memory
        self.pool = BlockPool(num_blocks)
        scheduler = Scheduler(
            self.pool,
            SchedulerLimits(
                max_model_len=400, max_running=8, max_batch_tokens=max_batch_tokens,
                prefill_chunk=8),
            block_size=BLOCK_SIZE, role=role)
        self.fatal: list[BaseException] = []
        self.engine = Engine(
            scheduler, self.runner,
            lambda step: loop.call_soon_threadsafe(self.worker.on_step, step),
            on_fatal=self.fatal.append)
        self.transport = InprocTransport()
        self.links = CapturedLinks()
        metrics = self.metrics = Metrics("inproc")
        self.worker = Worker(
            role=role, submit=self.engine.submit, load=self.engine.load,
            transport=self.transport, metrics=metrics, heartbeat_interval=0.05, clock=loop.time,
            watchdog=60, on_stuck=lambda reason: self.fatal.append(RuntimeError(reason)),
            on_late=lambda reason: None)  # a test process may stand still: nobody gives it up
        mover = self.mover = BlockMover(self.transport, blocks_of(memory.view(np.uint8)))
        self.outgoing = OutgoingPeers(
            self.identity, self._hello, self.transport, self._retire, mover)
        self.incoming = IncomingPeers(self.identity, self._hello)
        self.worker.links = self.links  # type: ignore[assignment]
        common = {
            "submit": self.engine.submit,
            "outlet": self.links, "observer": metrics, "clock": loop.time}
        checksums = ChecksumQueue(block_buffer, loop.call_soon)
        self.curves = CurveKeeper()
        self.worker.prefill = PrefillStage(
            identity=self.identity, peers=self.outgoing,
            overlaps=Overlaps(LAYOUT, self.curves, loop.time),
            checksums=checksums if kv_checksum else None, **common)  # type: ignore[arg-type]
        self.worker.decode = DecodeStage(
            layout=LAYOUT, peers=self.incoming, mover=mover, checksums=checksums,
            issue_tags=TagIssuer().issue, **common)  # type: ignore[arg-type]
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> MiniWorker:
        self.address = await self.incoming.bind("tcp://127.0.0.1:0")
        self.engine.start()
        self._spawn(self.worker.run())
        return self

    @property
    def ref(self) -> WorkerRef:
        return WorkerRef(self.identity, self.address)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition over `links`, or over the pool."""
        deadline = time.monotonic() + 60
        while not condition():
            assert not self.fatal, self.fatal
            assert time.monotonic() < deadline, f"not within a minute: {what}"
            self.links.changed.clear()
            try:
                await asyncio.wait_for(self.links.changed.wait(), 0.02)
            except TimeoutError:
                continue

    def is_clean(self) -> bool:
        blocks = self.engine.load()[0].blocks
        return (
            blocks.active == blocks.held == blocks.quarantined == 0
            and self.worker.prefill.active == self.worker.decode.active == 0
        )

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.outgoing.close()
        await self.incoming.close()
        self.engine.stop(5)
        await self.transport.close()
        self.pool.check_integrity()

    def _hello(self) -> PeerHello:
        return PeerHello(
            identity=self.identity, host=host_id(), fingerprint="fake", layout=LAYOUT,
            transport="inproc", transport_address=self.transport.address, pid=os.getpid())

    def _retire(self, dialer: Dialer) -> None:
        self._spawn(dialer.close())

    def _spawn(self, work: object) -> None:
        task = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

"""One life of one worker in a storm: the real Worker, stages, machines, scheduler and pool, with a
runner that knows what has to be in each block, and nothing that runs by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import storm_wire
from fake_runner import FakeRunner
from storm_links import StormIncoming, StormOutgoing
from storm_wire import Wire

from baton.decode import DecodeStage
from baton.deploy.worker.curves import CurveKeeper
from baton.deploy.worker.worker import Worker
from baton.engine.batch import BatchItem
from baton.engine.block_pool import BlockPool
from baton.engine.commands import Command, LayersDone, StepCompleted
from baton.engine.layer_marks import AfterLayer, LayerMarks
from baton.engine.limits import SchedulerLimits
from baton.engine.scheduler import Scheduler
from baton.kvtransfer.checksum import ChecksumQueue
from baton.kvtransfer.mover import Part
from baton.prefill import Overlaps, PrefillStage
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import Record, Scheme, TokenBatch, TokenDelta, WorkerRef

LIMITS = SchedulerLimits(max_model_len=64, max_running=6, max_batch_tokens=12, prefill_chunk=4)


class Observer:
    """Counts outcomes."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []

    def send_ended(self, kind: str, outcome: str, blocks: int, stamps: dict[str, float]) -> None:
        self.outcomes.append((f"send {kind}", outcome))

    def receive_ended(
        self, kind: str, outcome: str, blocks: int, phases: dict[str, float]
    ) -> None:
        self.outcomes.append((f"receive {kind}", outcome))

    def message_phase(self, phase: str, seconds: float) -> None: ...

    def sent_early(self, messages: int) -> None: ...

    def step(self, stats: object) -> None: ...


class StormLinks:
    """Stands for RouterLinks: what is told waits in `outbox`."""

    routers: tuple[Identity, ...] = ()

    def __init__(self) -> None:
        self.owned: set[RequestKey] = set()
        self.outbox: deque[Record] = deque()

    def own(self, key: RequestKey, router: Identity) -> None:
        self.owned.add(key)

    def tell(self, key: RequestKey, record: Record) -> None:
        if key in self.owned:
            self.outbox.append(record)

    def forget(self, key: RequestKey) -> None:
        self.owned.discard(key)

    def tell_all(self, record: Record) -> None: ...

    def publish(self, deltas: list[TokenDelta]) -> None:
        known = tuple(delta for delta in deltas if delta.key in self.owned)
        if known:
            self.outbox.append(TokenBatch(deltas=known))


class Life:
    """`number` stands for the process; `is_dead(number)` asks the kernel."""

    def __init__(
        self,
        name: str,
        number: int,
        *,
        wire: Wire,
        clock: Callable[[], float],
        is_dead: Callable[[int], bool],
        first_tag: int,
        num_blocks: int,
        block_size: int,
        scheme: Scheme,
        checksums: bool,
        num_layers: int,
        layer_groups: int,
        step_by_step: Callable[[], bool],
    ) -> None:
        self.name, self.number, self.wire, self.clock = name, number, wire, clock
        self.identity = Identity(name, number)
        self.ref = WorkerRef(self.identity, name)
        self.scheme = scheme
        self.block_size = block_size
        self.dead = False
        self.layout = KVLayout(num_layers, 1, 1, block_size, "float32")
        self.runner = FakeRunner(num_blocks, block_size, num_layers)
        self.marks = LayerMarks(
            lambda event: self.steps.append(event), block_size=block_size, num_layers=num_layers)
        self._step_by_step = step_by_step
        self._under_way: tuple[list[BatchItem], AfterLayer | None, int] | None = None
        """The batch of a step in whose midst the engine is, what to tell, and layers done."""
        self.fail_step = False
        self.pool = BlockPool(num_blocks)
        self.scheduler = Scheduler(self.pool, LIMITS, block_size=block_size, role="mixed")
        self.commands: deque[Command] = deque()
        self.steps: deque[StepCompleted | LayersDone] = deque()
        self.turns: deque[Callable[[], None]] = deque()
        self.inbox: deque[Record] = deque()
        self.links = StormLinks()
        self.outgoing = StormOutgoing(self)
        self.incoming = StormIncoming(self)
        self.observer = Observer()
        self._next_tag = first_tag
        stub: Any = SimpleNamespace(step=self.observer.step)
        self.worker = Worker(
            role="mixed", submit=self.commands.append, load=self._load, transport=stub,
            metrics=stub, heartbeat_interval=1, watchdog=60, on_stuck=self._stuck)
        self.worker.links = self.links  # type: ignore[assignment]
        queue = ChecksumQueue(self._bytes_of, self.turns.append, slice_bytes=24)
        common: dict[str, Any] = {
            "submit": self.commands.append, "outlet": self.links, "observer": self.observer,
            "clock": clock}
        self.worker.prefill = PrefillStage(
            identity=self.identity, peers=self.outgoing,  # type: ignore[arg-type]
            overlaps=Overlaps(self.layout, CurveKeeper(), clock, self.marks, layer_groups),
            checksums=queue if checksums else None, **common)
        self.worker.decode = DecodeStage(
            layout=self.layout, peers=self.incoming,  # type: ignore[arg-type]
            mover=SimpleNamespace(receive=self._receive),  # type: ignore[arg-type]
            issue_tags=self._issue_tags, checksums=queue,
            process_gone=lambda process: is_dead(process.pid), **common)

    # -- the engine --------------------------------------------------------------------------

    def take_commands(self) -> None:
        """The engine takes what is there, between two steps."""
        now = self.clock()
        while self.commands:
            self.scheduler.apply(self.commands.popleft(), now)
        self.wire.check(self)
        self._tell(self.scheduler.take_events())

    def step(self) -> bool:
        """One pass of the engine, or a layer of one, or the rest of it. False when it had nothing
        to do."""
        if self._under_way is None:
            self.take_commands()
            batch = self.scheduler.schedule(self.clock())
            self._tell(self.scheduler.take_events())
            if not batch:
                return False
            self._under_way = (batch, self.marks.begin(batch), 0)
        batch, after_layer, layers = self._under_way
        if layers < self.runner.num_layers and self._step_by_step():
            self.runner.compute_layer(batch, layers)
            self._under_way = (batch, after_layer, layers + 1)
            if after_layer is not None:
                after_layer(layers + 1)
            return True
        self._under_way = None
        if self.fail_step:
            self.fail_step = False
            self._tell(self.scheduler.abandon(batch, "internal_error", "storm"))
            self.wire.check(self)
        else:
            result = self.runner.step(batch)
            self._tell(self.scheduler.complete(batch, result, self.clock()))
        return True

    def _tell(self, events: list[Any]) -> None:
        if events:
            self.steps.append(StepCompleted(tuple(events), self.scheduler.load()))

    # -- the I/O thread ----------------------------------------------------------------------

    def sweep(self) -> None:
        self.worker.prefill.sweep()
        self.worker.decode.sweep()

    def turn(self) -> None:
        self.turns.popleft()()

    def hear_engine(self) -> None:
        event = self.steps.popleft()
        if isinstance(event, LayersDone):
            self.worker.on_layers(event)
        else:
            self.worker.on_step(event)

    def when(self) -> str:
        return "after its step" if self._under_way is None else "amid a step"

    # -- looking -----------------------------------------------------------------------------

    def assert_in_use(self, block: int, what: str) -> None:
        storm_wire.assert_in_use(self, block, what)

    def assert_sole_use(self, block: int) -> None:
        storm_wire.assert_sole_use(self, block)

    def check_nothing_held(self) -> None:
        counts = self.pool.counts()
        assert counts.active == counts.held == counts.quarantined == 0, (self.name, counts)
        assert self.worker.prefill.active == 0, f"{self.name} sends"
        assert self.worker.decode.active == 0, f"{self.name} receives"
        assert not self.links.owned, f"{self.name} owes words about {self.links.owned}"
        self.scheduler.check_integrity()

    # -- parts -------------------------------------------------------------------------------

    def _receive(
        self, blocks: Any, tag: int, scheme: Scheme, on_done: Any, part: Part | None = None
    ) -> Any:
        return self.wire.post_receive(self, tag, blocks, scheme, on_done, part)

    def _issue_tags(self, count: int) -> int:
        first = self._next_tag
        self._next_tag += count
        return first

    def _bytes_of(self, block: int) -> bytes:
        return storm_wire.row_bytes(self.runner.memory[block])

    def _load(self) -> Any:
        return self.scheduler.load(), 0.0

    def _stuck(self, reason: str) -> None:
        raise AssertionError(reason)

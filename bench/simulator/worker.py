"""A worker in simulated time: the I/O side of a worker process, its two stages and their hand-off
machines, as they are, over an engine whose steps only take time (`engine.py`) and peers whose
bytes do (`peers.py`).

What they do by themselves in a process (heartbeats, sweeps) is called from here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, cast

from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.engine import SimulatedEngine
from baton.bench.simulator.known_curves import KnownCurves
from baton.bench.simulator.links import SimulatedLinks
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.network import Network
from baton.bench.simulator.peers import Node
from baton.bench.simulator.session import SimulatedSession
from baton.bench.simulator.shared_names import PromptNames
from baton.decode import DecodeStage
from baton.deploy.worker.cache_teller import CacheTeller
from baton.deploy.worker.curves import CurveKeeper
from baton.deploy.worker.links import RouterLinks
from baton.deploy.worker.metrics import Metrics
from baton.deploy.worker.worker import Worker
from baton.engine.cache_log import CacheChange
from baton.engine.commands import (
    Command,
    EngineLoad,
    Event,
    Progress,
    StepCompleted,
    StepStats,
    UseCurve,
)
from baton.kvtransfer.checksum import ChecksumQueue
from baton.kvtransfer.handoff.sender import Sender
from baton.kvtransfer.mover import BlockMover
from baton.kvtransfer.peers import IncomingPeers, OutgoingPeers
from baton.kvtransfer.transport import Transport
from baton.prefill import Overlaps, PrefillStage
from baton.protocol.curves import StepShape
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import Record, WorkerHello

HEARTBEAT = 0.5
"""Seconds, as `WorkerSettings.heartbeat_interval`."""
SWEEPS = 2
"""Of the stages in that time, as in a worker that has hand-offs."""


class SimulatedWorker:
    """`learn`: the fit of its curve goes on with each step, as in a real worker, which costs time;
    otherwise it knows its curve exactly."""

    def __init__(
        self,
        loop: SimulatedLoop,
        network: Network,
        machine: Machine,
        name: str,
        role: str,
        *,
        seed: int,
        learn: bool = False,
        fast_forward: bool = False,
        names: PromptNames | None = None,
        epoch: int = 1,
    ) -> None:
        self.identity = Identity(name, epoch)
        self.machine = machine
        self.role_changes: list[tuple[float, str]] = []
        """(second, role), by command."""
        self.handoffs: Counter[str] = Counter()
        """How those ended that it had a part in, as `send prefill acked`."""
        self.dead = False
        self.first_role = role
        self.links = SimulatedLinks()
        self._loop = loop
        random = Random(f"{seed} {name}" + (f" {epoch}" if epoch > 1 else ""))
        curve = machine.curve if machine.knows_itself else None
        self.engine = SimulatedEngine(
            loop, machine, role, random.getrandbits(32), self._on_events,
            self._learn_from if learn else None, names=names,
            on_ran=self.links.publish_run if fast_forward and not learn else None,
        )
        node = self.node = Node(network, self.identity, machine, random)
        self._curves = CurveKeeper(curve) if learn else KnownCurves(curve, node.link_to)
        self._io = _IO(self, role)
        self._beats = 0
        loop.at(loop.time() + random.random() * HEARTBEAT, self._beat)

    @property
    def role(self) -> str:
        return self._io.role

    def hello(self) -> WorkerHello:
        return WorkerHello(
            identity=self.identity,
            pid=1,
            host=f"host-{self.node.host}",
            role=self.role,
            model=self.machine.card,
            layout=self.machine.layout,
            num_blocks=self.machine.num_blocks,
            max_running=self.machine.limits.max_running,
            peer_address=f"simulated://{self.identity.node_id}",
            device="simulated",
            prefill_chunk=self.machine.limits.prefill_chunk,
            max_batch_tokens=self.machine.limits.max_batch_tokens,
        )

    def joined(self, session: SimulatedSession) -> None:
        """A router has taken it in."""
        self.node.started = True
        self.links.opened(session)
        self._io.on_router_joined()

    def show(self) -> None:
        """Routers have heard of all that happened by now."""
        self.engine.catch_up()
        self.links.hear_out()

    def kill(self, noticed: float) -> None:
        """As after SIGKILL: nothing more is heard of it, which its peers notice after so many
        seconds. The sessions with routers are the caller's to lose."""
        self.show()
        self.dead = True
        self.engine.stop()
        self.links.die()
        self.node.die(noticed)

    def check_idle(self) -> None:
        """Raises AssertionError unless nothing is left of any request."""
        name, io = self.identity.node_id, self._io
        self.engine.scheduler.check_integrity()
        blocks = self.engine.scheduler.load().blocks
        assert blocks.active == blocks.held == blocks.quarantined == 0, f"{name} still has {blocks}"
        assert not self.node.under_way, f"{name}: {self.node.under_way} transfers are left"
        assert not io.prefill.active, f"{name} still sends"
        assert not io.decode.active, f"{name} still receives"
        assert not self.links.owned, f"{name} owes words of {self.links.owned} requests"

    def on_record(self, session: SimulatedSession, record: Record) -> None:
        if self.dead:
            return
        before = self.role
        self._io.on_record(session.router, record)
        if self.role != before:
            self.role_changes.append((self._loop.time(), self.role))

    # -- inside ------------------------------------------------------------------------------

    def _on_events(self, events: Sequence[Event], cache: Sequence[CacheChange]) -> None:
        for event in events:
            if type(event) is not Progress or event.hold or event.finish_reason is not None:
                self._io.on_step(StepCompleted(
                    cast("tuple[Event, ...]", events), _NO_LOAD, None,
                    cast("tuple[CacheChange, ...]", cache),
                ))
                return
        # Ordinary tokens, as in nearly all steps: the same comes of it, in half the time.
        self.links.publish_tokens(cast(Sequence[Progress], events))
        if cache:
            self._io.cache_changed(cache)

    def _learn_from(self, shape: StepShape, seconds: float) -> None:
        assert isinstance(self._curves, CurveKeeper)
        self._curves.step(StepStats(seconds, shape))

    def _beat(self) -> None:
        if self.dead:
            return
        if self._beats % SWEEPS == 0:
            self._io.send_load()
        self._beats += 1
        self._io.sweep()
        self._loop.at(self._loop.time() + HEARTBEAT / SWEEPS, self._beat)


_NO_LOAD = cast(EngineLoad, None)
"""Asked for with the heartbeat."""


class _IO(Worker):
    """The real one, its parts being those of a simulated worker."""

    def __init__(self, worker: SimulatedWorker, role: str) -> None:
        engine, machine, node = worker.engine, worker.machine, worker.node
        clock = node.network.loop.time
        self._engine = engine
        submit = engine.submit if machine.adapts else self._submit_but_curves
        super().__init__(
            role=role,
            submit=submit,
            load=self._look,
            transport=cast(Transport, None),
            metrics=cast(Metrics, None),
            curves=cast(CurveKeeper, worker._curves),
            heartbeat_interval=HEARTBEAT,
            watchdog=math.inf,
            on_stuck=_stuck,
            clock=clock,
        )
        links = worker.links
        self.links = cast(RouterLinks, links)
        self._cache = _Teller(links, engine)
        observer = _Observer(worker.handoffs)
        self.prefill = PrefillStage(
            identity=worker.identity,
            submit=submit,
            peers=cast(OutgoingPeers, node.outgoing),
            outlet=links,
            observer=observer,
            clock=clock,
            overlaps=cast(Overlaps, _WholeBlocks(machine.layout, worker._curves)),
        )
        self.decode = DecodeStage(
            layout=machine.layout,
            submit=submit,
            mover=cast(BlockMover, node),
            peers=cast(IncomingPeers, node.incoming),
            issue_tags=node.issue_tags,
            outlet=links,
            observer=observer,
            clock=clock,
            checksums=ChecksumQueue(_no_bytes, node.network.loop.call_soon),
            process_gone=node.network.is_gone,
        )

    def send_load(self) -> None:
        self._send_load()

    def cache_changed(self, changes: Sequence[CacheChange]) -> None:
        self._cache.changed(changes)

    def sweep(self) -> None:
        if self.prefill.needs_sweep:
            self.prefill.sweep()
        if self.decode.needs_sweep:
            self.decode.sweep()

    def _look(self) -> tuple[EngineLoad, float]:
        self._engine.catch_up()
        return self._engine.scheduler.load(), self._engine.step_age

    def _submit_but_curves(self, command: Command) -> None:
        if not isinstance(command, UseCurve):
            self._engine.submit(command)


class _Teller(CacheTeller):
    """The real one, told by an engine that may have gone ahead."""

    def __init__(self, links: SimulatedLinks, engine: SimulatedEngine) -> None:
        super().__init__(tell_all=links.tell_all, tell_router=links.tell_router)
        self._engine = engine

    def _tell(self) -> None:
        self._engine.catch_up()
        super()._tell()


class _Observer:
    """Of both stages."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts

    def send_ended(self, kind: str, outcome: str, blocks: int, stamps: dict[str, float]) -> None:
        self._counts[f"send {kind} {outcome}"] += 1

    def receive_ended(
        self, kind: str, outcome: str, blocks: int, phases: dict[str, float]
    ) -> None:
        self._counts[f"receive {kind} {outcome}"] += 1

    def message_phase(self, phase: str, seconds: float) -> None: ...

    def sent_early(self, messages: int) -> None: ...


class _WholeBlocks:
    """In the place of `Overlaps`: no step is looked into, so no block leaves in parts."""

    can_cut = False

    def __init__(self, layout: KVLayout, curves: CurveKeeper | KnownCurves) -> None:
        self.layout = layout
        self._curves = curves

    def transferred(self, peer: Identity, num_bytes: int, seconds: float) -> None:
        self._curves.transfer(peer.node_id, num_bytes, seconds)

    def layers_per_message(self, peer: Identity) -> int:
        return 0

    def began(self, key: RequestKey, peer: Identity) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def ended(self, key: RequestKey, peer: Identity, machine: Sender, outcome: str) -> None: ...

    def posted(self, seconds: float) -> None: ...

    def forget(self, peer: Identity) -> None: ...


def _stuck(reason: str) -> None:
    raise AssertionError(f"a simulated worker would end: {reason}")


def _no_bytes(block: int) -> Any:
    raise AssertionError("there are no bytes, so no checksums")

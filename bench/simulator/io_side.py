"""The I/O side of a simulated worker: that of a worker process, with its two stages and their
hand-off machines, as they are. What it does by itself in a process, heartbeats and sweeps, it is
asked for here; what stands in for other parts is below it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from baton.bench.simulator.engine import SimulatedEngine
from baton.bench.simulator.known_curves import KnownCurves
from baton.bench.simulator.links import SimulatedLinks
from baton.bench.simulator.node import Node
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
    Progress,
    UseCurve,
)
from baton.kvtransfer.checksum import ChecksumQueue
from baton.kvtransfer.handoff.sender import Sender
from baton.kvtransfer.mover import BlockMover
from baton.kvtransfer.peers import IncomingPeers, OutgoingPeers
from baton.kvtransfer.transport import Transport
from baton.prefill import Overlaps, PrefillStage
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.kvlayout import KVLayout

HEARTBEAT = 0.5
"""Seconds, as `WorkerSettings.heartbeat_interval`."""


class SimulatedIO(Worker):
    """The real one, its parts being those of a simulated worker."""

    def __init__(
        self,
        role: str,
        *,
        engine: SimulatedEngine,
        node: Node,
        links: SimulatedLinks,
        curves: CurveKeeper | KnownCurves,
        outcomes: Counter[str],
    ) -> None:
        """`outcomes` counts how hand-offs end."""
        machine, clock = node.machine, node.network.loop.time
        self._engine = engine
        submit = engine.submit if machine.adapts else self._submit_but_curves
        super().__init__(
            role=role,
            submit=submit,
            load=self._look,
            transport=cast(Transport, None),
            metrics=cast(Metrics, None),
            curves=cast(CurveKeeper, curves),
            heartbeat_interval=HEARTBEAT,
            watchdog=math.inf,
            on_stuck=_stuck,
            clock=clock,
        )
        self.links = cast(RouterLinks, links)
        self._cache = _Teller(links, engine)
        observer = _Observer(outcomes)
        self.prefill = PrefillStage(
            identity=node.identity,
            submit=submit,
            peers=cast(OutgoingPeers, node.outgoing),
            outlet=links,
            observer=observer,
            clock=clock,
            overlaps=cast(Overlaps, _WholeBlocks(machine.layout, curves)),
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

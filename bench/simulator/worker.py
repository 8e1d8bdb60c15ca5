"""A worker in simulated time: the I/O side of a worker process (`io_side.py`), over an engine whose
steps only take time (`engine.py`) and a network whose bytes do (`node.py`, `network.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import cast

from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.engine import SimulatedEngine
from baton.bench.simulator.io_side import HEARTBEAT, SimulatedIO
from baton.bench.simulator.known_curves import KnownCurves
from baton.bench.simulator.links import SimulatedLinks
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.network import Network
from baton.bench.simulator.node import Node
from baton.bench.simulator.session import SimulatedSession
from baton.bench.simulator.shared_names import PromptNames
from baton.deploy.worker.curves import CurveKeeper
from baton.engine.cache_log import CacheChange
from baton.engine.commands import EngineLoad, Event, Progress, StepCompleted, StepStats
from baton.protocol.curves import StepShape
from baton.protocol.ids import Identity
from baton.protocol.records import Record, WorkerHello

SWEEPS = 2
"""Of the stages between two heartbeats, as in a worker that has hand-offs."""

_NO_LOAD = cast(EngineLoad, None)
"""It is asked for with the heartbeat."""


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
        self._io = SimulatedIO(
            role, engine=self.engine, node=node, links=self.links, curves=self._curves,
            outcomes=self.handoffs,
        )
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

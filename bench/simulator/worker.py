"""A worker in simulated time: takes the router's records and answers as a real one does.

Steps are the real scheduler's (`engine.py`), cache events and curves come from the very parts that
a worker process uses; only the hand-off (`handoff.py`) is a model of the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from baton.bench.simulator.ahead import Ran
from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.engine import SimulatedEngine
from baton.bench.simulator.handoff import Handoffs
from baton.bench.simulator.known_curves import KnownCurves
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.network import Network
from baton.bench.simulator.session import SimulatedSession
from baton.bench.simulator.shared_names import PromptNames
from baton.deploy.worker.cache_teller import CacheTeller
from baton.deploy.worker.curves import CurveKeeper
from baton.deploy.worker.role import RoleKeeper
from baton.engine.cache_log import CacheChange
from baton.engine.commands import (
    ChangeRole,
    Event,
    Progress,
    Refused,
    Release,
    Reserved,
    SequenceFailed,
    Start,
    StepStats,
    UseCurve,
)
from baton.protocol.cache_events import ResendCache
from baton.protocol.curves import StepShape
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import (
    Cancel,
    Generate,
    Lend,
    Load,
    Migrate,
    Prefill,
    Record,
    RequestFailed,
    Reserve,
    SetDraining,
    SetRole,
    TokenBatch,
    TokenDelta,
    WorkerHello,
    WorkerRef,
)

HEARTBEAT = 0.5
"""Seconds, as `WorkerSettings.heartbeat_interval`."""


class SimulatedWorker:
    """An `Outlet` for its hand-offs. `learn`: the fit of its curve goes on with each step, as in a
    real worker, which costs time; otherwise it knows its curve exactly."""

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
        self.dead = False
        self._loop = loop
        self._network = network
        self.first_role = role
        self._role = RoleKeeper(role)
        self._sessions: dict[Identity, SimulatedSession] = {}
        self._owners: dict[RequestKey, SimulatedSession] = {}
        random = Random(f"{seed} {name}" + (f" {epoch}" if epoch > 1 else ""))
        curve = machine.curve if machine.knows_itself else None
        self._curves = CurveKeeper(curve) if learn else KnownCurves(curve, machine.link)
        self.engine = SimulatedEngine(
            loop, machine, role, random.getrandbits(32), self._on_events,
            self._learn_from if learn else None, names=names,
            on_ran=self._on_ran if fast_forward and not learn else None,
        )
        self._draining = False
        self._cache = _Teller(self)
        self._handoffs = Handoffs(
            self.identity, machine, loop, network, self.engine, self, self._curves, random
        )
        loop.at(loop.time() + random.random() * HEARTBEAT, self._beat)

    @property
    def role(self) -> str:
        return self._role.role

    def hello(self) -> WorkerHello:
        return WorkerHello(
            identity=self.identity,
            pid=1,
            host="simulated",
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
        self._sessions[session.router] = session
        self._send_load()
        session.tell(self._curves.current())

    def show(self) -> None:
        """Routers have heard of all that happened by now."""
        self.engine.catch_up()
        for session in self._sessions.values():
            session.hear_out()

    def kill(self) -> None:
        """As after SIGKILL: nothing more is heard of it. The sessions are the caller's to lose."""
        self.show()
        self.dead = True
        self.engine.stop()
        for session in self._sessions.values():
            session.fall_silent()
        self._sessions.clear()
        self._network.leave(self._handoffs)

    # -- from routers ------------------------------------------------------------------------

    def on_record(self, session: SimulatedSession, record: Record) -> None:
        if self.dead:
            return
        match record:
            case Prefill():
                self._owners[record.request.key] = session
                self._start(self._handoffs.on_prefill(record), record.lender)
            case Reserve():
                self._owners[record.request.key] = session
                self._handoffs.on_reserve(record)
            case Generate():
                self._owners[record.request.key] = session
                self._start(Start(record.request, hold=False), record.lender)
            case Lend():
                self._handoffs.on_lend(record)
            case Migrate():
                self._handoffs.on_migrate(record)
            case Cancel():
                self._cancel(record.key)
            case SetRole():
                self._set_role(record, session.router)
            case SetDraining():
                self._draining = record.draining
                self._send_load()
            case ResendCache():
                self._cache.resend(session.router)
            case _:
                raise AssertionError(f"a simulated worker does not know {type(record).__name__}")

    def _start(self, start: Start, lender: WorkerRef | None) -> None:
        if lender is None:
            self.engine.submit(start)
        else:
            self._handoffs.borrow(start.request, lender, lambda: self.engine.submit(start))

    def _cancel(self, key: RequestKey) -> None:
        self._handoffs.on_cancel(key)
        self.engine.submit(Release(key))
        self.forget(key)

    def _set_role(self, record: SetRole, router: Identity) -> None:
        before = self.role
        if self._role.take(record, router):
            self.engine.submit(ChangeRole(self.role))
        if self.role != before:
            self.role_changes.append((self._loop.time(), self.role))
        self._send_load()

    # -- from the engine ---------------------------------------------------------------------

    def _on_events(self, events: Sequence[Event], cache: Sequence[CacheChange]) -> None:
        deltas: dict[SimulatedSession, list[TokenDelta]] = {}
        owners = self._owners
        for event in events:
            if type(event) is Progress and not event.hold and event.finish_reason is None:
                session = owners.get(event.key)  # an ordinary token, as nearly all are
                if session is not None and event.tokens:
                    if session in deltas:
                        deltas[session].append(_delta(event))
                    else:
                        deltas[session] = [_delta(event)]
                continue
            match event:
                case Progress():
                    if (event.tokens or event.finish_reason) and (
                        not event.hold or self._handoffs.is_for_router(event)
                    ):
                        session = owners.get(event.key)
                        if session is not None:
                            deltas.setdefault(session, []).append(_delta(event))
                    if event.hold:
                        self._handoffs.on_progress(event)
                    elif event.finish_reason is not None:
                        self.forget(event.key)
                case Reserved():
                    self._handoffs.on_reserved(event)
                case Refused():
                    self._handoffs.on_refused(event)
                case SequenceFailed():
                    failed = RequestFailed(key=event.key, code=event.code, message=event.message)
                    self.tell(event.key, failed)
                    self._cancel(event.key)
        for session, batch in deltas.items():
            session.tell(TokenBatch(deltas=tuple(batch)))
        self._cache.changed(cache)

    def _on_ran(self, ran: Ran) -> None:
        owners = [self._owners.get(key) for key in ran.keys]
        for session in dict.fromkeys(owners):
            if session is not None:
                session.tell_run(ran.of([owner is session for owner in owners]))

    def _learn_from(self, shape: StepShape, seconds: float) -> None:
        assert isinstance(self._curves, CurveKeeper)
        self._curves.step(StepStats(seconds, shape))

    # -- to routers --------------------------------------------------------------------------

    def tell(self, key: RequestKey, record: Record) -> None:
        session = self._owners.get(key)
        if session is not None:
            session.tell(record)

    def forget(self, key: RequestKey) -> None:
        self._owners.pop(key, None)

    def _beat(self) -> None:
        if not self.dead:
            self._send_load()
            self._loop.at(self._loop.time() + HEARTBEAT, self._beat)

    def _send_load(self) -> None:
        curves = self._curves.take()
        if curves is not None:
            self._tell_all(curves)
            if curves.step is not None and self.machine.adapts:
                self.engine.submit(UseCurve(curves.step))
        self.engine.catch_up()
        load = self.engine.scheduler.load()
        self._tell_all(Load(
            role=self.role,
            state="draining" if self._draining else "ready",
            waiting=load.waiting,
            running=load.running,
            handoffs=self._handoffs.active,
            waiting_tokens=load.waiting_tokens,
            blocks=load.blocks,
            step_age=self.engine.step_age,
            steps=load.steps,
            preemptions=load.preemptions,
            decoding=load.decoding,
            decode_context=load.decode_context,
            backlog_seconds=load.backlog_seconds,
            term=self._role.term,
            controller=self._role.controller,
            pinned=self._role.pinned,
            routers=tuple(self._sessions),
        ))

    def _tell_all(self, record: Record) -> None:
        for session in self._sessions.values():
            session.tell(record)

    def _tell_router(self, router: Identity, record: Record) -> None:
        if router in self._sessions:
            self._sessions[router].tell(record)


class _Teller(CacheTeller):
    """The real one, told by an engine that may have gone ahead."""

    def __init__(self, worker: SimulatedWorker) -> None:
        super().__init__(tell_all=worker._tell_all, tell_router=worker._tell_router)
        self._engine = worker.engine

    def _tell(self) -> None:
        self._engine.catch_up()
        super()._tell()


def _delta(event: Progress) -> TokenDelta:
    return TokenDelta(
        key=event.key,
        position=event.position,
        tokens=event.tokens,
        finish_reason=event.finish_reason,
        cached_tokens=event.cached_tokens,
        phases=event.phases,
    )

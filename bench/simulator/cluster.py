"""A cluster in simulated time: real dispatchers, simulated workers, and clients."""

from __future__ import annotations

import asyncio
import gc
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from baton.bench.simulator.ahead import Ran
from baton.bench.simulator.client import Clients
from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.engine import Work
from baton.bench.simulator.events import Event, Fails, Joins, Slows, in_order
from baton.bench.simulator.io_side import HEARTBEAT
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.network import Network
from baton.bench.simulator.outcome import Gaps, Outcome
from baton.bench.simulator.quiet import quiet
from baton.bench.simulator.session import SimulatedSession
from baton.bench.simulator.shared_names import PromptNames
from baton.bench.simulator.worker import SimulatedWorker
from baton.bench.workloads.arrival import Arrival
from baton.protocol.ids import Identity
from baton.protocol.link import LossCause
from baton.router.candidates import Candidate
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.observer import NoObserver, Observer
from baton.router.registry import Registry
from baton.router.sizing import Sizing


class Decisions(NoObserver):
    """Counts what a dispatcher says of itself."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.circuits: list[tuple[float, str, bool]] = []
        self.retries: Counter[str] = Counter()

    def decision(self, route: str, reason: str, *more: Any, **named: Any) -> None:
        self.counts[f"{route} {reason}"] += 1

    def retry(self, reason: str) -> None:
        self.retries[reason] += 1

    def circuit(self, worker_id: str, is_open: bool, why: str) -> None:
        self.circuits.append((asyncio.get_running_loop().time(), worker_id, is_open))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is left of a simulation."""

    outcomes: list[Outcome]
    gaps: Gaps
    work: dict[str, Work]
    """By worker."""
    role_changes: list[tuple[float, str, str]]
    """(second, worker, role), in their order."""
    decisions: Counter[str]
    retries: Counter[str]
    circuits: list[tuple[float, str, bool]]
    """(second, worker, open): whom a router left alone from then on, or used again."""
    seconds: float
    """Simulated, until the last request ended."""
    events: int
    sizing: list[str] = field(default_factory=list)
    """What the controllers decided, in words."""
    log: list[tuple[Any, ...]] = field(default_factory=list)
    handoffs: Counter[str] = field(default_factory=Counter)
    """How they ended, at either side: `send prefill acked`, `receive request peer_lost`."""
    happened: list[tuple[float, str, str]] = field(default_factory=list)
    """(second, worker, what) of what was scheduled: "fails", "back", "asked for", "joined" or
    "slows"."""


@contextmanager
def _rare_collection() -> Iterator[None]:
    """Nearly all that a run makes is freed by its count of references; looking for cycles among
    a million live objects would take a seventh of the time."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Cluster:
    """`dispatcher(observer)` makes each of the routers; it is called within the loop's time."""

    def __init__(
        self,
        workers: Sequence[tuple[str, Machine]],
        *,
        seed: int,
        dispatcher: Callable[[Observer], Dispatcher] = lambda observer: Dispatcher(None, observer),
        routers: int = 1,
        learn: bool = False,
        keep_log: bool = False,
        sizing: bool = False,
        fast_forward: bool = False,
        workers_per_host: int = 1,
    ) -> None:
        """`workers`: (role, machine) of each. `sizing`: the routers change roles. `fast_forward`:
        many steps at once where a batch only decodes (not while workers `learn`).
        `workers_per_host`: so many, in their order, share the link of their host, in each
        direction. Raises ConfigError when that is none."""
        self.loop = SimulatedLoop()
        self.network = Network(self.loop, workers_per_host)
        self.observer = Decisions()
        self.log: list[tuple[Any, ...]] = []
        self._keep_log = keep_log
        self.dispatchers = [dispatcher(self.observer) for _ in range(routers)]
        self._router_ids = [Identity(f"router-{n}", 1) for n in range(routers)]
        self.workers: dict[str, SimulatedWorker] = {}
        self.sizings: list[Sizing] = []
        self._sessions: dict[str, list[SimulatedSession]] = {}
        self._clients: Clients | None = None
        self._happened: list[tuple[float, str, str]] = []
        self._before: dict[str, Work] = {}
        """What earlier lives of workers did."""
        self._make = partial(
            SimulatedWorker, self.loop, self.network, seed=seed, learn=learn,
            fast_forward=fast_forward, names=PromptNames(),
        )
        for role, machine in workers:
            self.start(role, machine)
        if sizing:
            self.loop.call_soon(self._start_sizing)
        if fast_forward:
            for each in self.dispatchers:
                self._show_before_deciding(each.registry)
            if sizing:
                self.loop.at(0.0, self._show_often)

    def run(
        self, arrivals: Iterable[Arrival], *, until: float | None = None,
        count: tuple[float, float] = (-math.inf, math.inf),
    ) -> Run:
        """Until all requests have ended, or to this second. `gaps` are of those that arrive within
        `count`."""
        clients = self._clients = Clients(self.loop, self.dispatchers, iter(arrivals), count)
        with _rare_collection(), quiet():
            while not clients.finished and (until is None or self.loop.time() < until):
                step = self.loop.time() + 10.0
                self.loop.run_until(step if until is None else min(step, until))
        clients.close()
        for sizing in self.sizings:
            sizing.close()
        self.loop.run_until(self.loop.time())
        return Run(
            outcomes=clients.outcomes,
            gaps=clients.gaps,
            work={name: self._before.get(name, Work()) + worker.engine.work
                  for name, worker in self.workers.items()},
            role_changes=sorted(
                (at, name, role)
                for name, worker in self.workers.items()
                for at, role in worker.role_changes
            ),
            decisions=self.observer.counts,
            retries=self.observer.retries,
            circuits=self.observer.circuits,
            seconds=self.loop.time(),
            events=self.loop.events,
            sizing=[entry.line() for sizing in self.sizings for entry in sizing.controller.log],
            log=self.log,
            handoffs=sum((worker.handoffs for worker in self.workers.values()), Counter()),
            happened=self._happened,
        )

    def schedule(self, events: Iterable[Event]) -> list[str]:
        """Let this happen while it runs. Returns the names of those that join, in the order of
        their times. Raises ConfigError of what cannot happen (see `in_order`)."""
        joining = []
        for event, name in in_order(events, self.workers):
            self.loop.at(event.at, self._happen, event, name)
            if isinstance(event, Joins):
                joining.append(name)
        return joining

    def start(self, role: str, machine: Machine, *, seconds: float = 0.0) -> str:
        """One more worker; it joins after so many seconds, which its process needs to start.
        Returns its name."""
        name = f"{role}-{len(self.workers)}"
        worker = self.workers[name] = self._make(machine, name, role)
        self.loop.call_later(seconds, self._join, worker)
        return name

    def kill(self, name: str, *, noticed: float = 0.0) -> None:
        """As after SIGKILL; routers and other workers notice it after so many seconds."""
        self.workers[name].kill(noticed)
        lost = self._sessions.pop(name, [])
        if noticed:
            self.loop.call_later(noticed, _lose, lost)
        else:
            _lose(lost)

    def restart(self, name: str, *, seconds: float = 0.0) -> None:
        """One that was killed is started again in the role that it had at first: another epoch,
        with nothing in its cache, that joins after so many seconds."""
        dead = self.workers[name]
        assert dead.dead, f"{name} lives"
        self._before[name] = self._before.get(name, Work()) + dead.engine.work
        worker = self.workers[name] = self._make(
            dead.machine, name, dead.first_role, epoch=dead.identity.epoch + 1
        )
        worker.role_changes = dead.role_changes
        worker.handoffs.update(dead.handoffs)
        self.loop.call_later(seconds, self._join, worker)

    def slow(self, name: str, factor: float) -> None:
        """Its steps take so many times as long as they should, from now on."""
        self.workers[name].engine.factor = factor

    def show(self) -> None:
        """Routers and clients have all tokens that came by now. To be called in fast-forward by
        whoever looks at flights, or ends them."""
        for worker in self.workers.values():
            if not worker.dead:
                worker.show()

    def check_idle(self) -> None:
        """Raises AssertionError unless nothing is left of any request."""
        for worker in self.workers.values():
            if not worker.dead:
                worker.check_idle()

    # -- inside ------------------------------------------------------------------------------

    def _happen(self, event: Event, name: str) -> None:
        match event:
            case Fails():
                self._note(name, "fails")
                self.kill(name, noticed=event.noticed)
                if event.back_after is not None:
                    self.restart(name, seconds=event.back_after)
                    self.loop.call_later(event.back_after, self._note, name, "back")
            case Joins():
                self._note(name, "asked for")
                machine = event.machine or self._machine_for(event.role)
                started = self.start(event.role, machine, seconds=event.start_seconds)
                assert started == name, f"{name} was announced, {started} joins"
                self.loop.call_later(event.start_seconds, self._note, name, "joined")
            case Slows():
                self._note(name, "slows")
                self.slow(name, event.factor)

    def _note(self, name: str, what: str) -> None:
        self._happened.append((self.loop.time(), name, what))

    def _machine_for(self, role: str) -> Machine:
        """As the first worker that began with this role, or the first of all."""
        first = list(self.workers.values())
        return next((w.machine for w in first if w.first_role == role), first[0].machine)

    def _start_sizing(self) -> None:
        for router, dispatcher in zip(self._router_ids, self.dispatchers, strict=True):
            sizing = Sizing(dispatcher, router, mode="auto")
            sizing.start()
            self.sizings.append(sizing)

    def _join(self, worker: SimulatedWorker) -> None:
        if worker.dead:
            return
        name = worker.identity.node_id
        for router, dispatcher in zip(self._router_ids, self.dispatchers, strict=True):
            session = SimulatedSession(self.loop, router, dispatcher, worker.on_record)
            session.worker = dispatcher.worker_joined(worker.hello(), session.as_session())
            session.watch = self._watcher(name)
            session.watch_run = self._watch_run
            session.flight_of = self._flight_of
            self._sessions.setdefault(name, []).append(session)
            worker.joined(session)

    def _show_before_deciding(self, registry: Registry) -> None:
        """Whatever a router looks at then, workers or their health, it has had all tokens."""
        candidates = registry.candidates

        def after_showing(*args: Any, **named: Any) -> list[Candidate]:
            self.show()
            return candidates(*args, **named)

        setattr(registry, "candidates", after_showing)  # noqa: B010

    def _show_often(self) -> None:
        self.show()
        self.loop.at(self.loop.time() + HEARTBEAT, self._show_often)

    def _flight_of(self, request_id: str) -> Flight | None:
        return None if self._clients is None else self._clients.flight_of(request_id)

    def _watch_run(self, ran: Ran, times: list[float], end: int) -> None:
        if self._clients is not None:
            self._clients.watch_run(ran, times, end)

    def _watcher(self, name: str) -> Callable[[Any], None]:
        def watch(record: Any) -> None:
            if self._clients is not None:
                self._clients.watch(record)

        def watch_and_log(record: Any) -> None:
            self.log.append((self.loop.time(), name, record))
            watch(record)

        return watch_and_log if self._keep_log else watch


def _lose(sessions: list[SimulatedSession]) -> None:
    for session in sessions:
        session.lose("killed", LossCause.PROCESS)

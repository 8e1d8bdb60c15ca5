"""Sizing the pools, live: what the router sees goes to the controller, what it decides to workers.

    every second    who leads? the leader ticks the controller
    a move          SetRole in the leader's term; the worker's next heartbeat says what became of it

Nothing is drained for it: what a worker runs, it runs to the end beside its new role.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity
from baton.protocol.records import SetRole
from baton.router.candidates import ROLES
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.harmless import harmless
from baton.router.planner.controller import Cluster, Controller, ControllerSettings
from baton.router.planner.leader import Leadership, Word
from baton.router.planner.moves import WorkerState
from baton.router.planner.phases import Kind
from baton.router.planner.split import Steps, finish
from baton.router.registry import Registry, Worker

log = logging.getLogger(__name__)

MODES = ("auto", "dry-run", "off")
AUTO = "auto"
TICK = 1.0
"""Seconds."""
_EXPOSED_TOKENS = 512
"""Of a prompt, whose transfer nothing hides: those of its last chunk."""
_SHARE_WEIGHT = 0.1
_LOGGED = 50


class Sizing:
    """`mode`: "auto" changes roles, "dry-run" only says what it would do, "off" does neither. Set
    as `dispatcher.watcher` it hears of all requests."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        identity: Identity,
        *,
        mode: str = "dry-run",
        settings: ControllerSettings | None = None,
        role_changed: Callable[[str], None] = lambda role: None,
        attained: Callable[[str, bool], None] = lambda target, kept: None,
    ) -> None:
        self.mode = mode
        self.leadership = Leadership(identity)
        self.controller = Controller(self._look, settings)
        self._dispatcher = dispatcher
        self._registry: Registry = dispatcher.registry
        self._role_changed = role_changed
        self._attained = attained
        self._roles: dict[Identity, str] = {}
        self._share = 1.0
        """Of all requests, those that come to this router."""
        self._task: asyncio.Task[None] | None = None
        dispatcher.watcher = self

    def start(self) -> None:
        """Tick until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Idempotent. Roles stay as they are."""
        if self._task is not None:
            self._task.cancel()

    def tick(self, now: float) -> None:
        """To be called once a second, where nobody waits meanwhile."""
        finish(self.steps(now))

    def steps(self, now: float) -> Steps[None]:
        """As `tick`, in steps between which requests have their turn."""
        workers = list(self._registry)
        self._count_changes(workers)
        if self.mode == "off":
            return
        words = [
            Word(w.load.routers, w.load.term, w.load.controller) for w in workers if w.load
        ]
        led = self.leadership.leads
        leads = self.leadership.hear(words)
        self._share += _SHARE_WEIGHT * (self._own_share(workers) - self._share)
        if not leads:
            return
        if not led:
            log.info("this router sizes the pools from now on, in term %d", self.leadership.term)
        last = self.controller.last
        moves = yield from self.controller.steps(now, act=self.mode == AUTO)
        entry = self.controller.last
        if entry is not None and entry is not last and (
            entry.moves or last is None or entry.summary != last.summary
        ):
            log.log(
                logging.INFO if entry.moves else logging.DEBUG,
                "%s%s", "" if self.mode == AUTO else "dry run: ", entry.line(),
            )
        for move in moves:
            worker = self._registry.named(move.worker)
            if worker is not None:
                worker.send(SetRole(
                    role=move.role, term=self.leadership.term, controller=self.leadership.name
                ))

    # -- for people --------------------------------------------------------------------------

    def set_role(self, worker_id: str, role: str) -> None:
        """A person's word: the worker keeps this role until somebody says "auto". Returns at once;
        the worker's view shows the role when it has taken it. Raises BatonError (not_found,
        invalid_value)."""
        known = (*ROLES, AUTO)
        if role not in known:
            raise BatonError(
                "invalid_value", f"role must be one of {', '.join(known)}, got {role!r:.100}",
                param="role",
            )
        worker = self._registry.named(worker_id)
        if worker is None:
            raise BatonError("not_found", f"no worker {worker_id!r} is here now")
        worker.send(SetRole(role=role, term=0 if worker.load is None else worker.load.term))

    def view(self, now: float) -> dict[str, object]:
        """How the pools are sized, and why: the latest decisions last."""
        last = self.controller.last
        return {
            "mode": self.mode,
            "leads": self.leadership.leads and self.mode != "off",
            "leader": self.leadership.leader.node_id,
            "routers": [router.node_id for router in self.leadership.routers],
            "term": self.leadership.term,
            "seconds_of_a_move": round(self.controller.cost.seconds, 3),
            "workers": [
                {
                    "id": worker.identity.node_id,
                    "role": worker.role,
                    "pinned": worker.load is not None and worker.load.pinned,
                    "term": 0 if worker.load is None else worker.load.term,
                }
                for worker in sorted(self._registry, key=lambda w: w.identity.node_id)
            ],
            "last": None if last is None else last.as_json(now),
            "decisions": [entry.as_json(now) for entry in list(self.controller.log)[-_LOGGED:]],
        }

    # -- from the dispatcher (FlightWatcher) ---------------------------------------------------

    @harmless
    def arrived(self, flight: Flight) -> None:
        targets = flight.request.targets
        self.controller.observation.arrived(
            flight.key.request_id,
            flight.stamps.arrived,
            flight.num_tokens,
            flight.request.sampling.max_tokens,
            float("inf") if targets.ttft is None else targets.ttft,
            float("inf") if targets.itl is None else targets.itl,
            lambda: len(flight.accepted),
        )

    @harmless
    def ended(self, flight: Flight) -> None:
        key = flight.key.request_id
        self._judge(flight)
        if flight.stamps.first_token is None:
            self.controller.observation.refused(key)
        else:
            self.controller.observation.ended(key, len(flight.accepted), flight.cached_tokens)

    def _judge(self, flight: Flight) -> None:
        targets, stamps = flight.request.targets, flight.stamps
        if flight.outcome == "cancelled" and stamps.first_token is None:
            return  # its client did not wait to see
        served = stamps.first_token is not None and flight.error is None
        first, itl = stamps.first_token, flight.mean_itl
        in_time = served and (
            targets.ttft is None or first is None or first - stamps.arrived <= targets.ttft
        )
        fluent = served and (targets.itl is None or itl is None or itl <= targets.itl)
        if targets.ttft is not None:
            self._attained("ttft", in_time)
        if targets.itl is not None:
            self._attained("itl", fluent)
        if targets.ttft is not None or targets.itl is not None:
            self._attained("both", in_time and fluent)

    # -- inside ------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK)
            try:
                for _ in self.steps(loop.time()):
                    await asyncio.sleep(0)
            except Exception:  # requests go on without it, and the next tick tries again
                log.exception("sizing the pools failed")

    def _look(self) -> Cluster:
        ready = [worker for worker in self._registry if worker.available]
        known = [w.curves.step for w in ready if w.curves is not None and w.curves.step is not None]
        if not known:
            return Cluster(())
        workers = []
        for worker in ready:
            hello, load = worker.hello, worker.load
            curve = worker.curves.step if worker.curves is not None else None
            workers.append(WorkerState(
                name=worker.identity.node_id,
                role=worker.role,
                kind=Kind(
                    curve or known[0],
                    hello.num_blocks * hello.layout.block_size,
                    hello.max_running,
                    hello.max_batch_tokens,
                    hello.prefill_chunk,
                ),
                pinned=load is not None and load.pinned,
                decoding=len(worker.decoding - worker.prefilling.keys())
                if load is None
                else max(load.decoding, len(worker.decoding - worker.prefilling.keys())),
                prefilling=len(worker.prefilling),
                backlog=0.0 if load is None else load.backlog_seconds or 0.0,
            ))
        return Cluster(
            tuple(workers), self._dispatcher.queue_depth, self._handoff(ready),
            1 / max(0.05, self._share),
        )

    def _handoff(self, workers: list[Worker]) -> float:
        """Seconds that a typical transfer takes after the last chunk; the middle one of all pairs
        that have met."""
        seconds = sorted(
            link.seconds(
                worker.hello.layout.block_bytes
                * _EXPOSED_TOKENS // worker.hello.layout.block_size
            )
            for worker in workers
            if worker.curves is not None
            for _, link in worker.curves.links
        )
        return seconds[len(seconds) // 2] if seconds else 0.0

    def _own_share(self, workers: list[Worker]) -> float:
        """Of what the workers run. Others' requests are taken to be like ours."""
        if len(self.leadership.routers) == 1:
            return 1.0
        ours = sum(worker.outstanding for worker in workers)
        theirs = sum(w.load.running + w.load.waiting for w in workers if w.load is not None)
        return 1.0 if theirs <= ours else ours / theirs

    def _count_changes(self, workers: list[Worker]) -> None:
        now = {worker.identity: worker.role for worker in workers}
        for identity, role in now.items():
            if self._roles.get(identity, role) != role:
                self._role_changed(role)
        self._roles = now

"""The I/O side of a worker: routes records between routers, engine and the two stages.

Everything here runs on one event loop. The engine thread is reached by `submit` and answers by
`on_step`, which it calls through `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from baton.decode import DecodeStage
from baton.deploy.worker.cache_teller import CacheTeller
from baton.deploy.worker.curves import CurveKeeper
from baton.deploy.worker.lateness import Lateness
from baton.deploy.worker.links import RouterLinks
from baton.deploy.worker.metrics import Metrics
from baton.deploy.worker.role import RoleKeeper
from baton.engine.commands import (
    ChangeRole,
    Command,
    EngineLoad,
    LayersDone,
    Progress,
    Refused,
    Release,
    Reserved,
    SequenceFailed,
    Start,
    StepCompleted,
    UseCurve,
)
from baton.kvtransfer.transport import Transport
from baton.prefill import PrefillStage
from baton.protocol.cache_events import ResendCache
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import (
    Cancel,
    Declined,
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
    TokenDelta,
    WorkerRef,
)

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 0.25
_ASK_SECONDS = 0.0005


class Worker:
    """`load` gives (engine load, seconds since the last step while work is pending). When these
    exceed `watchdog`, `on_stuck` is told: the process should end, and its supervisor start
    another. The same when more than `quarantine_share` of the blocks has been quarantined for
    `quarantine_seconds` and what runs has ended: only the end of the process gives such blocks
    back. `on_late` is told when the process stood still for longer than its sessions live."""

    def __init__(
        self,
        *,
        role: str,
        submit: Callable[[Command], None],
        load: Callable[[], tuple[EngineLoad, float]],
        transport: Transport,
        metrics: Metrics,
        curves: CurveKeeper | None = None,
        heartbeat_interval: float,
        watchdog: float,
        on_stuck: Callable[[str], None],
        on_late: Callable[[str], None] | None = None,
        quarantine_share: float = 0.1,
        quarantine_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._role = RoleKeeper(role)
        self._submit = submit
        self._load = load
        self._transport = transport
        self._metrics = metrics
        self._curves = curves or CurveKeeper()
        self._cache = CacheTeller(
            tell_all=lambda record: self.links.tell_all(record),
            tell_router=lambda router, record: self.links.tell_router(router, record),
        )
        self._heartbeat_interval = heartbeat_interval
        self._watchdog = watchdog
        self._on_stuck = on_stuck
        self._on_late = on_late or on_stuck
        self._lateness = Lateness()
        self._quarantine_share = quarantine_share
        self._quarantine_seconds = quarantine_seconds
        self._clock = clock
        self._over_cap_since: float | None = None
        self._layers: deque[LayersDone] = deque()
        """In their order, from the first that is not computed yet on."""
        self.draining = False
        """Takes no new requests."""
        self._emptied = False
        """A person wants it empty. (What comes before all routers know is taken, and moved.)"""
        # Set by the composition before `run`, since each needs the other.
        self.links: RouterLinks
        self.prefill: PrefillStage
        self.decode: DecodeStage

    @property
    def role(self) -> str:
        return self._role.role

    # -- from routers (LinkEvents) -----------------------------------------------------------

    def on_record(self, router: Identity, record: Record) -> None:
        match record:
            case Prefill() | Reserve() | Generate():
                key = record.request.key
                self.links.own(key, router)
                if self.draining:
                    self.links.tell(key, Declined(key=key, reason="draining"))
                    self.links.forget(key)
                else:
                    self._take(record)
            case Lend():
                self.prefill.on_lend(record)
            case Migrate():
                self.prefill.on_migrate(record)
            case Cancel():
                self._cancel(record.key)
            case SetRole():
                if self._role.take(record, router):
                    self._submit(ChangeRole(self._role.role))
                self._send_load()  # which tells the sender of a refusal, too
            case SetDraining():
                self._emptied = record.draining
                self._send_load()
            case ResendCache():
                self._cache.resend(router)
            case _:
                log.error("router %s may not send %s", router.node_id, type(record).__name__)

    def _take(self, record: Prefill | Reserve | Generate) -> None:
        match record:
            case Prefill():
                start = self.prefill.on_prefill(record)
                if start is not None:
                    self._start(start, record.lender)
            case Reserve():
                self.prefill.on_taken_over(record.request.key)
                self.decode.on_reserve(record)
            case Generate():
                self._start(Start(record.request, hold=False), record.lender)

    def _start(self, start: Start, lender: WorkerRef | None) -> None:
        """What the lender has is fetched first; whether that works or not, the request runs."""
        if lender is None:
            self._submit(start)
        else:
            self.decode.borrow(start.request, lender, lambda: self._start_if_wanted(start))

    def _start_if_wanted(self, start: Start) -> None:
        """While the loan came the hand-off may have ended, and then nobody would ever release
        what the engine holds for it."""
        if not start.hold or self.prefill.is_started(start.request.key):
            self._submit(start)

    def on_router_joined(self) -> None:
        """It decides by our load, so it should not have to wait for a heartbeat."""
        self._send_load()
        self.links.tell_all(self._curves.current())

    def on_router_lost(self, orphans: list[RequestKey]) -> None:
        for key in orphans:
            self._cancel(key)

    def _cancel(self, key: RequestKey) -> None:
        """Valid in every state: handing off, running, or long gone."""
        self.prefill.on_cancel(key)
        self.decode.on_cancel(key)
        self._submit(Release(key))  # after theirs, which may quarantine
        self.links.forget(key)

    # -- from the engine ---------------------------------------------------------------------

    def on_step(self, step: StepCompleted) -> None:
        """Tokens first: a client waits for them."""
        self.links.publish([
            _delta(event)
            for event in step.events
            if isinstance(event, Progress)
            and (event.tokens or event.finish_reason)
            and (not event.hold or self.prefill.is_for_router(event))
        ])
        for event in step.events:
            match event:
                case Progress():
                    if event.hold:
                        self.prefill.on_progress(event)
                    elif event.finish_reason is not None:
                        self.links.forget(event.key)
                case Reserved():
                    self.decode.on_reserved(event)
                case Refused():
                    if not self.prefill.on_refused(event):
                        self.decode.on_refused(event)
                case SequenceFailed():
                    self._failed(event)
        if step.stats is not None:
            self._metrics.step(step.stats)
            self._curves.step(step.stats)
        self._cache.changed(step.cache)

    def on_layers(self, event: LayersDone) -> None:
        """In the midst of a step. On a device they may not be computed yet, so that is asked now
        and then, which costs less than to be woken by it."""
        self._layers.append(event)
        if len(self._layers) == 1:
            self._take_layers()

    def _take_layers(self) -> None:
        while self._layers:
            ready = self._layers[0].ready
            if ready is not None and not ready():
                asyncio.get_running_loop().call_later(_ASK_SECONDS, self._take_layers)
                return
            self.prefill.on_layers(self._layers.popleft())

    def _failed(self, event: SequenceFailed) -> None:
        self.links.tell(
            event.key, RequestFailed(key=event.key, code=event.code, message=event.message)
        )
        self.prefill.on_cancel(event.key)
        self.decode.on_cancel(event.key)
        self._submit(Release(event.key))  # what a hand-off may still have been sending was kept
        self.links.forget(event.key)

    # -- time --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Heartbeats, lease expiry and metrics, until cancelled."""
        next_load = next_metrics = 0.0
        while True:
            now = time.monotonic()
            late = self._lateness.look(now)
            if late is not None:
                self._on_late(f"stood still for {late:.1f} s, and was given up meanwhile")
            if self.prefill.needs_sweep:
                self.prefill.sweep()
            if self.decode.needs_sweep:
                self.decode.sweep()
            if now >= next_load:
                next_load = now + self._heartbeat_interval
                self._send_load()
            if now >= next_metrics:
                next_metrics = now + 1.0
                self._send_metrics()
            busy = self.prefill.needs_sweep or self.decode.needs_sweep
            wait = next_load - time.monotonic()
            await asyncio.sleep(max(0.0, min(wait, _SWEEP_SECONDS) if busy else wait))

    def _send_load(self) -> None:
        engine, step_age = self._load()
        if step_age > self._watchdog:
            self._on_stuck(f"work pending and no step for {step_age:.0f} s")
        self._watch_quarantine(engine)
        curves = self._curves.take()
        if curves is not None:
            self.links.tell_all(curves)
            if curves.step is not None:
                self._submit(UseCurve(curves.step))
        self.links.tell_all(Load(
            role=self._role.role,
            state="draining" if self.draining or self._emptied else "ready",
            waiting=engine.waiting,
            running=engine.running,
            handoffs=self.prefill.active + self.decode.active,
            waiting_tokens=engine.waiting_tokens,
            blocks=engine.blocks,
            step_age=step_age,
            steps=engine.steps,
            preemptions=engine.preemptions,
            decoding=engine.decoding,
            decode_context=engine.decode_context,
            backlog_seconds=engine.backlog_seconds,
            term=self._role.term,
            controller=self._role.controller,
            pinned=self._role.pinned,
            routers=self.links.routers,
        ))

    def _watch_quarantine(self, engine: EngineLoad) -> None:
        """Drain when over the cap for long (a burst of cancels is over it for a moment); back under
        it, go on."""
        blocks = engine.blocks
        total = blocks.free + blocks.cached + blocks.active + blocks.held + blocks.quarantined
        now = self._clock()
        if blocks.quarantined <= total * self._quarantine_share:
            self._over_cap_since = None
        elif self._over_cap_since is None:
            self._over_cap_since = now
        since = self._over_cap_since
        draining = since is not None and now >= since + self._quarantine_seconds
        if draining != self.draining:
            self.draining = draining
            log.warning(
                "%d of %d blocks are quarantined: %s", blocks.quarantined, total,
                "no new requests" if draining else "taking requests again",
            )
        live = self.prefill.live + self.decode.live
        if draining and not (engine.waiting or engine.running or live):
            self._on_stuck(f"{blocks.quarantined} of {total} blocks are quarantined")

    def _send_metrics(self) -> None:
        self._metrics.bytes_sent(self._transport.bytes_sent())
        self._metrics.handoffs(
            sending=self.prefill.in_flight(),
            receiving=self.decode.in_flight(),
            backlog=self.prefill.backlog(),
            quarantined_bytes=self._load()[0].blocks.quarantined * self.decode.block_bytes,
        )
        self._metrics.ways(self.decode.probes)
        samples = self._metrics.take()
        if samples is not None:
            self.links.tell_all(samples)


def _delta(progress: Progress) -> TokenDelta:
    return TokenDelta(
        key=progress.key,
        position=progress.position,
        tokens=progress.tokens,
        logprobs=progress.logprobs,
        prompt_logprobs=progress.prompt_logprobs,
        finish_reason=progress.finish_reason,
        cached_tokens=progress.cached_tokens,
        phases=progress.phases,
    )

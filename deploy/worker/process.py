"""One worker process, from settings to serving to a clean end.

    load the model -> start the engine thread -> bind the peer socket -> dial routers -> serve
    until SIGTERM, SIGINT, a router's refusal, or an engine that stopped stepping

The main thread runs the event loop; the engine has its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvloop

from baton.decode import DecodeStage
from baton.deploy.settings import WorkerSettings, join_address
from baton.deploy.status import StatusWriter
from baton.deploy.worker.curves import CurveKeeper
from baton.deploy.worker.lateness import LATE_EXIT
from baton.deploy.worker.links import RouterLinks
from baton.deploy.worker.metrics import Metrics
from baton.deploy.worker.pinning import pinned
from baton.deploy.worker.worker import Worker
from baton.engine.commands import EngineLoad
from baton.kvtransfer.checksum import ChecksumQueue
from baton.kvtransfer.memory import blocks_of
from baton.kvtransfer.mover import BlockMover
from baton.kvtransfer.peers import IncomingPeers, OutgoingPeers
from baton.kvtransfer.registry import create_transport, load_in_background
from baton.kvtransfer.tags import TagIssuer
from baton.prefill import Overlaps, PrefillStage
from baton.protocol.ids import Identity, host_id, new_epoch
from baton.protocol.link import GOODBYE, Dialer
from baton.protocol.link.pump import say_goodbyes
from baton.protocol.records import PeerHello, WorkerHello

if TYPE_CHECKING:
    from baton.deploy.worker.build import EngineParts, LoadedModel

log = logging.getLogger(__name__)

_STOP_SECONDS = 2.0
"""For the step under way; a longer one ends with the process."""


def run_worker(
    settings: WorkerSettings, status: StatusWriter, loaded: LoadedModel | None = None
) -> int:
    """Returns the exit code. `loaded`: the model, in a fork of a loader. Raises ConfigError, one
    line, when it cannot start as asked."""
    # Torch takes longest to import, so nothing above needs it and its time is told apart.
    if loaded is None:
        status.stage("importing torch")
    from baton.deploy.worker.build import build_engine, load_model

    if loaded is None:
        load_in_background(settings.transport)  # after torch: two imports wait for each other
    with pinned(settings.cpus):
        if settings.paced is not None:
            from baton.deploy.worker.paced import build_paced

            parts = build_paced(settings, status)
        else:
            parts = build_engine(settings, loaded or load_model(settings, status), status)
    status.stage("joining")
    try:
        return uvloop.run(_serve(settings, parts, status))
    finally:
        say_goodbyes()


async def _serve(settings: WorkerSettings, parts: EngineParts, status: StatusWriter) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[int, str]] = loop.create_future()

    def end(code: int, reason: str) -> None:
        if not ended.done():
            ended.set_result((code, reason))

    def threadsafe(callback: Callable[..., object], *arguments: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(callback, *arguments)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, end, 0, signal.Signals(signum).name)

    identity = Identity(settings.worker_id, new_epoch())
    transport = create_transport(settings.transport)
    # `publish` and `fatal` are called on the engine thread.
    engine = parts.engine(
        lambda step: threadsafe(worker.on_step, step),
        lambda error: threadsafe(end, 1, f"the engine failed: {error}"),
    )

    def load() -> tuple[EngineLoad, float]:
        told = engine.load()
        parts.memory.keep_ahead(parts.num_blocks - told[0].blocks.free)
        return told

    metrics = Metrics(settings.transport)
    curves = CurveKeeper(parts.curve)
    worker = Worker(
        role=settings.role,
        submit=engine.submit,
        load=load,
        transport=transport,
        metrics=metrics,
        curves=curves,
        heartbeat_interval=settings.heartbeat_interval,
        watchdog=settings.watchdog,
        on_stuck=lambda reason: end(1, reason),
        on_late=lambda reason: end(LATE_EXIT, reason),
        quarantine_share=settings.quarantine_share,
    )

    def peer_hello() -> PeerHello:
        return PeerHello(
            identity=identity,
            host=host_id(),
            fingerprint=parts.card.fingerprint,
            layout=parts.layout,
            transport=transport.name,
            transport_address=transport.address,
            pid=os.getpid(),
        )

    closing: set[asyncio.Task[None]] = set()

    def retire(dialer: Dialer) -> None:
        task = loop.create_task(dialer.close())
        closing.add(task)
        task.add_done_callback(closing.discard)

    issue_tags = TagIssuer().issue
    mover = BlockMover(transport, blocks_of(parts.memory.rows))
    outgoing = OutgoingPeers(identity, peer_hello, transport, retire, mover)
    incoming = IncomingPeers(identity, peer_hello, mover, issue_tags)
    peer_address = await incoming.bind(f"tcp://{settings.host}:0")

    def hello() -> WorkerHello:
        limits = parts.scheduler.limits
        return WorkerHello(
            identity=identity,
            pid=os.getpid(),
            host=host_id(),
            role=worker.role,
            model=parts.card,
            layout=parts.layout,
            num_blocks=parts.num_blocks,
            max_running=settings.max_running,
            peer_address=peer_address,
            device=settings.device,
            prefill_chunk=limits.prefill_chunk,
            max_batch_tokens=limits.max_batch_tokens,
        )

    links = RouterLinks(
        identity,
        tuple(join_address(address) for address in settings.join),
        hello,
        worker,
        lambda reason: end(1, f"refused by the router: {reason}"),
    )
    worker.links = links
    checksums = ChecksumQueue(parts.memory.block_buffer, loop.call_soon)
    overlaps = Overlaps(
        parts.layout,
        links=curves,
        clock=time.monotonic,
        marks=parts.runner.tell_layers(lambda event: threadsafe(worker.on_layers, event)),
        fixed=settings.model.kv_layer_groups,
    )
    worker.prefill = PrefillStage(
        identity=identity,
        submit=engine.submit,
        peers=outgoing,
        outlet=links,
        observer=metrics,
        clock=time.monotonic,
        overlaps=overlaps,
        checksums=checksums if settings.model.kv_checksum else None,
    )
    worker.decode = DecodeStage(
        layout=parts.layout,
        submit=engine.submit,
        mover=mover,
        peers=incoming,
        issue_tags=issue_tags,
        outlet=links,
        observer=metrics,
        clock=time.monotonic,
        checksums=checksums,
    )

    with pinned(settings.cpus):  # for the engine's threads; this one goes where there is room
        engine.start()
    links.start()
    heart = loop.create_task(worker.run())
    heart.add_done_callback(lambda task: _heart_stopped(task, end))
    status.ready(address=peer_address, worker_id=settings.worker_id, role=settings.role,
                 blocks=parts.num_blocks)
    code, reason = await ended
    log.info("worker %s ends: %s", settings.worker_id, reason)
    heart.cancel()
    if code:
        status.fatal(reason)
    # Whoever is late has nothing any more that its end could be blamed on.
    await links.close(GOODBYE if code in (0, LATE_EXIT) else reason)
    await outgoing.close()
    await incoming.close()
    engine.stop(_STOP_SECONDS)
    await transport.close()
    return code


def _heart_stopped(task: asyncio.Task[None], end: Callable[[int, str], None]) -> None:
    """A worker without heartbeats is dead to its routers, so it ends."""
    if not task.cancelled() and task.exception() is not None:
        log.critical("the worker's heart failed", exc_info=task.exception())
        end(1, f"heartbeat failed: {task.exception()}")

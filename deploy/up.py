"""`baton up`: one router and its workers on this machine.

    fetch the model if it is not here -> bind the HTTP port -> private directory for control sockets
    -> start all processes at once, who check the model for themselves -> all ready: serve
    -> a signal, or nothing left that can serve -> end them, remove the directory

Whatever happens, nothing is left: not on an error at any of these points (one `finally`), and not
when this process is killed (`lifeline`; the router then removes the directory).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path

from baton.deploy.lifeline import adopt_orphans
from baton.deploy.listening import bind_listener, url_of
from baton.deploy.logs import set_up_logging
from baton.deploy.progress import Display, Ready, choose_display
from baton.deploy.runtime_dir import runtime_directory
from baton.deploy.settings import (
    RouterSettings,
    UpSettings,
    WorkerSettings,
    to_json,
)
from baton.deploy.status import LOADING, process_age
from baton.deploy.supervisor import ChildSpec, StartFailed, Supervisor
from baton.deploy.topology import Placement, can_share_weights, place_workers

log = logging.getLogger(__name__)

ROUTER = "router"
LOADER = "loader"


def run_up(settings: UpSettings) -> int:
    """Serve until a signal; returns the exit status. Raises ConfigError, and then nothing runs."""
    set_up_logging("launcher", json_logs=settings.json_logs)
    model = settings.model.model
    if model is not None and not Path(model).expanduser().exists():
        settings = fetch_model(settings)  # once for all children; a typing error ends here too
    placements = place_workers(len(settings.roles), settings.device)
    adopt_orphans()
    with bind_listener(settings.host, settings.port) as listener:
        return asyncio.run(_Launch(settings, placements, listener).run())


def fetch_model(settings: UpSettings) -> UpSettings:
    """The settings with the model's path, which every child finds again at once, and the name to
    serve it by. Raises ConfigError unless it can be had, and is whole."""
    from baton.engine.model.source import resolve_model

    source = resolve_model(settings.model.model)
    return replace(
        settings,
        model=replace(settings.model, model=str(source.path)),
        served_model_name=settings.served_model_name or source.name,
    )


def child_argv(kind: str, name: str) -> tuple[str, ...]:
    """-P: the working directory must not shadow installed packages."""
    return (sys.executable, "-P", "-m", "baton.deploy.child", kind, name)


def plan_children(
    settings: UpSettings,
    placements: list[Placement],
    listener: socket.socket,
    runtime_dir: Path,
) -> list[ChildSpec]:
    """The router's spec, the loader's where workers can share weights, then one per worker."""
    control = f"ipc://{runtime_dir}/control"
    public: tuple[str, ...] = ()
    if settings.control_port is not None:
        public = (f"tcp://{settings.control_host}:{settings.control_port}",)
    loader = LOADER if can_share_weights(placements) else None
    router = RouterSettings(
        host=settings.host,
        port=listener.getsockname()[1],
        listen_fd=listener.fileno(),
        control=(control, *public),
        api_key=settings.api_key,
        insecure=settings.insecure,
        served_model_name=settings.served_model_name,
        lanes=settings.lanes,
        sizing=settings.sizing,
        strict_roles=settings.strict_roles,
        max_queue=settings.max_queue,
        journal=settings.journal,
        model=settings.model,
        runtime_dir=str(runtime_dir),
        expected_workers=len(placements),
        json_logs=settings.json_logs,
    )
    specs = [
        ChildSpec(
            ROUTER,
            child_argv("router", ROUTER),
            to_json(router),
            pass_fds=(listener.fileno(),),
            essential=True,
            after_stage=None if loader is None else (LOADER, LOADING),
        )
    ]
    if loader is not None:
        loading = WorkerSettings(
            worker_id=LOADER,
            role="mixed",
            join=(control,),
            device="cpu",
            threads=1,
            model=settings.model,
            paced=settings.paced,
            json_logs=settings.json_logs,
        )
        specs.append(
            ChildSpec(
                LOADER,
                child_argv("loader", LOADER),
                to_json(loading),
                env=_worker_environment(1),
                is_loader=True,
            )
        )
    counts: dict[str, int] = {}
    for role, placement in zip(settings.roles, placements, strict=True):
        number = counts.setdefault(role, 0)
        counts[role] += 1
        worker = WorkerSettings(
            worker_id=f"{role}-{number}",
            role=role,
            join=(control,),
            device=placement.device,
            threads=placement.threads,
            cpus=placement.cpus,
            host=settings.control_host,
            model=settings.model,
            max_running=settings.max_running,
            max_batch_tokens=settings.max_batch_tokens,
            memory_share=placement.memory_share,
            paced=settings.paced,
            json_logs=settings.json_logs,
        )
        specs.append(
            ChildSpec(
                worker.worker_id,
                child_argv("worker", worker.worker_id),
                to_json(worker),
                env=_worker_environment(placement.threads, placement.visible_gpu),
                fork_of=loader,
            )
        )
    return specs


def _worker_environment(threads: int, visible_gpu: str | None = None) -> dict[str, str]:
    """Thread counts that libraries read when they are loaded, and the GPU."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    # libgomp's threads spin for milliseconds at the end of each parallel loop. On cores that the
    # router and the I/O threads share, a step then took ten times as long.
    environment.setdefault("GOMP_SPINCOUNT", "10000")
    if visible_gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible_gpu
    return environment


class _Launch:
    """One run of the launcher."""

    def __init__(
        self, settings: UpSettings, placements: list[Placement], listener: socket.socket
    ) -> None:
        self._settings = settings
        self._placements = placements
        self._listener = listener
        self._display: Display = choose_display(json_logs=settings.json_logs)
        self._supervisor: Supervisor | None = None
        self._signal: signal.Signals | None = None
        self._signalled = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signals.append(signal.SIGHUP)
        for signum in signals:
            loop.add_signal_handler(signum, self._on_signal, signum)
        with runtime_directory() as runtime_dir:
            specs = plan_children(self._settings, self._placements, self._listener, runtime_dir)
            self._supervisor = supervisor = Supervisor(
                specs, self._display, restart=self._settings.restart
            )
            try:
                self._display.begin([spec.name for spec in specs])
                return await self._serve(supervisor)
            except StartFailed as error:
                self._display.failed(str(error))
                return 1
            finally:
                # A connection that arrives from now on is refused instead of never answered.
                self._listener.close()
                await supervisor.stop()
                self._display.close()

    async def _serve(self, supervisor: Supervisor) -> int:
        if not await self._unless_signalled(supervisor.start()):
            self._display.stopping("stopped before it was ready")
            return 128 + (self._signal or signal.SIGTERM)
        self._display.serving(self._ready(supervisor))
        if await self._unless_signalled(supervisor.wait_essential_gone()):
            self._display.stopping("the router is gone: ending")
            return 1
        self._display.stopping("ending")
        return 0

    async def _unless_signalled(self, work: Coroutine[object, object, object]) -> bool:
        """True when `work` came to its end, with its errors raised; False after a signal."""
        task = asyncio.create_task(work)
        told = asyncio.create_task(self._signalled.wait())
        try:
            await asyncio.wait([task, told], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            task.result()
            return True
        finally:
            for pending in (task, told):
                pending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await told

    def _ready(self, supervisor: Supervisor) -> Ready:
        reports = {name: child.ready for name, child in supervisor.children.items()}
        router = reports[ROUTER]
        served = str(router.details["model"]) if router is not None else ""
        return Ready(
            url=url_of(self._listener),
            model=served,
            api_key=self._settings.api_key,
            seconds=process_age(),
            timings={name: report.timings for name, report in reports.items() if report},
        )

    def _on_signal(self, signum: signal.Signals) -> None:
        """The first asks for an orderly end, the second for an immediate one."""
        if self._signal is not None and self._supervisor is not None:
            self._supervisor.kill()
        self._signal = signum
        self._signalled.set()

"""One router process, from settings to serving to a clean end.

    take the HTTP port -> load the tokenizer -> listen for workers -> serve -> SIGTERM
    -> end every request with a typed error -> close

A client that connects before the application is there waits in the port's backlog for that
moment; /ready then says what is still missing.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from baton.deploy.listening import bind_listener, url_of
from baton.deploy.settings import RouterSettings
from baton.deploy.status import StatusWriter
from baton.protocol.errors import ConfigError

if TYPE_CHECKING:
    from baton.router.journal import Journal

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 1.0
"""For responses that are being written. Whoever sent SIGTERM expects the end within 2 s."""


def run_router(settings: RouterSettings, status: StatusWriter) -> int:
    """Returns the exit status. Raises ConfigError when it cannot start as asked."""
    status.stage("taking the port")
    with _listener(settings) as listener:
        status.stage("importing")
        import uvloop

        importlib.import_module("baton.router.http")
        from baton.protocol.link.pump import say_goodbyes

        try:
            return uvloop.run(_serve(settings, listener, status))
        finally:
            say_goodbyes()


def _listener(settings: RouterSettings) -> socket.socket:
    if settings.listen_fd is not None:
        return socket.socket(fileno=settings.listen_fd)
    return bind_listener(settings.host, settings.port)


def open_journal(settings: RouterSettings, port: int) -> Journal | None:
    """None when there is to be none. "auto" has a name by which two routers of one machine do
    not meet, and a router finds its own again. Raises ConfigError."""
    if settings.journal == "off":
        return None
    from baton.router.journal import Journal

    if settings.journal == "auto":
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
        path = Path(state) / "baton" / f"journal-{settings.router_id}-{port}.jsonl"
        try:
            return Journal(path)
        except ConfigError as error:
            log.warning("no journal is kept: %s", error)  # it was not asked for by name
            return None
    return Journal(Path(settings.journal).expanduser())


async def _serve(settings: RouterSettings, listener: socket.socket, status: StatusWriter) -> int:
    from baton.deploy.joining import JoinableDispatcher
    from baton.engine.model.source import resolve_model
    from baton.engine.tokenizer import load_tokenizer
    from baton.protocol.ids import Identity, new_epoch
    from baton.router.control import RouterControl
    from baton.router.http import create_app, serve
    from baton.router.lanes import Lanes
    from baton.router.metrics import RouterMetrics
    from baton.router.sizing import Sizing

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ended.set)

    url = url_of(listener)
    identity = Identity(settings.router_id, new_epoch())
    metrics = RouterMetrics()
    journal = open_journal(settings, listener.getsockname()[1])
    dispatcher = JoinableDispatcher(
        observer=metrics,
        lanes=Lanes(settings.lanes),
        max_queue=settings.max_queue,
        router_id=settings.router_id,
        strict_roles=settings.strict_roles,
        journal=None if journal is None else journal.add,
    )
    sizing = Sizing(
        dispatcher,
        identity,
        mode=settings.sizing_mode,
        role_changed=metrics.role_changed,
        attained=metrics.attained,
    )
    controls = [RouterControl(identity, dispatcher) for _ in settings.control]
    runner = None
    try:
        addresses = [
            await control.bind(address)
            for control, address in zip(controls, settings.control, strict=True)
        ]
        status.stage("loading the tokenizer")
        source = resolve_model(settings.model.model)
        name = settings.served_model_name or source.name
        app = create_app(
            dispatcher,
            load_tokenizer(source),
            served_model_name=name,
            metrics=metrics,
            api_key=settings.api_key,
            pools=sizing,
        )
        runner, _ = await serve(
            app, settings.host, settings.port, sock=listener, shutdown_timeout=SHUTDOWN_SECONDS
        )
        if not status.attached:
            log.info("serving %s at %s; workers join at %s", name, url, ", ".join(addresses))
        sizing.start()
        status.stage("waiting for workers")
        if await dispatcher.wait_for_workers(settings.expected_workers, ended):
            status.ready(address=url, model=name, control=addresses)
            await ended.wait()
        log.info("ending")
        return 0
    finally:
        sizing.close()
        # First the requests: each stream ends with its error while its connection is still open.
        dispatcher.close()
        if runner is not None:
            await runner.cleanup()
        for control in controls:
            await control.close()
        if journal is not None:
            journal.close()


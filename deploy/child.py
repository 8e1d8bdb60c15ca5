"""Where a process begins that `baton up` started: `python -P -m baton.deploy.child KIND NAME`.

KIND is router, worker, or loader: what workers on CPU are forked from (`loader`), which then go on
in `run_forked_worker`.

Standard input carries the settings, one line of JSON, and then nothing: it stays open as long as
the launcher lives (see `lifeline`). `--status-fd N` names the pipe for progress (see `status`).
Nothing but the standard library, msgspec and setproctitle is imported here, because this is on the
way of every start.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from baton.deploy import lifeline
from baton.deploy.logs import set_up_logging
from baton.deploy.settings import RouterSettings, WorkerSettings, from_json
from baton.deploy.status import StatusWriter, process_age
from baton.protocol.errors import ConfigError

if TYPE_CHECKING:
    from baton.deploy.worker.build import LoadedModel

log = logging.getLogger(__name__)

_MAX_SETTINGS_BYTES = 1 << 20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="baton.deploy.child")
    parser.add_argument("kind", choices=("router", "worker", "loader"))
    parser.add_argument("name", help="for lists of processes")
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--fork-fd", type=int, help="a loader's socket for requests to fork")
    options = parser.parse_args(argv)

    # A router that must tidy up gets a signal that it can act on.
    lifeline.die_with_parent(signal.SIGTERM if options.kind == "router" else signal.SIGKILL)
    os.set_inheritable(options.status_fd, False)
    status = StatusWriter(options.status_fd)
    status.spent("starting Python", process_age())
    try:
        line = _read_line(sys.stdin.fileno())
        match options.kind:
            case "router":
                return _run_router_child(line, status)
            case "worker":
                return _run_worker_child(line, status)
            case _:
                return _run_loader_child(line, status, options.status_fd, options.fork_fd)
    except ConfigError as error:
        return _give_up(error, status)


def _run_worker_child(
    line: bytes, status: StatusWriter, loaded: LoadedModel | None = None
) -> int:
    settings = from_json(line, WorkerSettings)
    setproctitle(f"baton worker {settings.worker_id}")
    set_up_logging(settings.worker_id, json_logs=settings.json_logs)
    lifeline.watch(sys.stdin.fileno())
    return guarded_worker(settings, status, loaded)


def run_forked_worker(status_fd: int, loaded: LoadedModel | None) -> int:
    """A worker's whole life in a fork of the loader, from its settings on standard input."""
    status = StatusWriter(status_fd)
    try:
        return _run_worker_child(_read_line(sys.stdin.fileno()), status, loaded)
    except ConfigError as error:
        return _give_up(error, status)


def _run_loader_child(line: bytes, status: StatusWriter, status_fd: int, fork_fd: int) -> int:
    settings = from_json(line, WorkerSettings)
    setproctitle("baton loader")
    set_up_logging("loader", json_logs=settings.json_logs)
    try:
        from baton.deploy.loader import run_loader

        return run_loader(settings, status, status_fd, socket.socket(fileno=fork_fd))
    except Exception as error:
        return _give_up(error, status)


def _run_router_child(line: bytes, status: StatusWriter) -> int:
    settings = from_json(line, RouterSettings)
    setproctitle(f"baton router {settings.router_id}")
    set_up_logging(settings.router_id, json_logs=settings.json_logs)
    on_loss = None
    if settings.runtime_dir is not None:
        on_loss = partial(shutil.rmtree, settings.runtime_dir, ignore_errors=True)
    lifeline.watch(sys.stdin.fileno(), on_loss)
    return guarded_router(settings, status)


def guarded_worker(
    settings: WorkerSettings, status: StatusWriter, loaded: LoadedModel | None = None
) -> int:
    """Run a worker to its end; whatever stops it becomes one line and exit status 1."""
    try:
        from baton.deploy.worker.process import run_worker

        return run_worker(settings, status, loaded)
    except Exception as error:
        return _give_up(error, status)


def guarded_router(settings: RouterSettings, status: StatusWriter) -> int:
    """The same for a router."""
    try:
        from baton.deploy.router_process import run_router

        return run_router(settings, status)
    except Exception as error:
        return _give_up(error, status)


def _give_up(error: Exception, status: StatusWriter) -> int:
    told = isinstance(error, ConfigError)
    if not told:
        log.error("an unexpected error ends this process", exc_info=error)
    cause = str(error) if told else f"{type(error).__name__}: {error}"
    if status.attached:
        status.fatal(cause)
    else:
        print(f"baton: {cause}", file=sys.stderr)
    return 1


def _read_line(fd: int) -> bytes:
    """Unbuffered, so that nothing after the line is taken from the lifeline."""
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = os.read(fd, 65536)
        if not piece or len(line) > _MAX_SETTINGS_BYTES:
            raise ConfigError("no settings on standard input: this command is for the launcher")
        line += piece
    return bytes(line)


if __name__ == "__main__":
    sys.exit(main())

"""Transports by name. A transport is imported when it is asked for."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable

from baton.kernels.native.build import load_block_copy
from baton.kvtransfer import memory_hooks
from baton.kvtransfer.transport import Transport
from baton.protocol.errors import ConfigError


def _ucx() -> Transport:
    from baton.kvtransfer.ucx import UcxTransport

    return UcxTransport()


def _inproc() -> Transport:
    from baton.kvtransfer.inproc import InprocTransport

    return InprocTransport()


_FACTORIES: dict[str, Callable[[], Transport]] = {"ucx": _ucx, "inproc": _inproc}

TRANSPORTS = tuple(_FACTORIES)


def load_in_background(name: str) -> threading.Thread:
    """Import a transport's libraries on a thread, while the caller does other work. Whatever
    fails there fails again, and is told, in `create_transport`."""
    if name == "ucx":
        memory_hooks.install()

    def load() -> None:
        with contextlib.suppress(Exception):
            importlib.import_module(f"baton.kvtransfer.{name}")
            if name == "ucx":
                load_block_copy()  # the first time on a machine it is compiled

    thread = threading.Thread(target=load, name=f"load {name}", daemon=True)
    thread.start()
    return thread


def create_transport(name: str) -> Transport:
    """A transport that belongs to the running loop. Raises ConfigError for an unknown name, and
    for one that this machine cannot run."""
    factory = _FACTORIES.get(name)
    if factory is None:
        raise ConfigError(f"unknown transport {name!r}; there are {', '.join(TRANSPORTS)}")
    try:
        return factory()
    except (ImportError, OSError) as error:
        raise ConfigError(f"transport {name} does not work here: {error}") from error

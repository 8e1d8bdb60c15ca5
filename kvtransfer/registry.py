"""Transports by name. A transport is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

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

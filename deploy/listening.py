"""The HTTP port, taken before anything slow happens, so that a conflict is told at once."""

from __future__ import annotations

import errno
import socket

from baton.protocol.errors import ConfigError

_BACKLOG = 1024


def bind_listener(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError that names the address and
    what to do when it cannot be had; nothing is left open then."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror}") from error
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(_failure(host, port, error)) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a client on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _failure(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: choose another with --port (0 takes a free one)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} on {host} needs privileges that this process lacks: choose another"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: choose another with --host"
    return f"cannot listen on {host}:{port}: {error.strerror}"

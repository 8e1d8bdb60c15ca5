"""Addresses of control sessions: `tcp://HOST:PORT` (a name may stand for several hosts) and
`ipc://PATH`."""

from __future__ import annotations

import asyncio
import socket

from baton.protocol.errors import ConfigError


def split_tcp(address: str) -> tuple[str, int] | None:
    """Host and port of a tcp address, None for an ipc one. Raises ConfigError for neither."""
    scheme, separator, rest = address.partition("://")
    if separator and scheme == "ipc" and rest:
        return None
    host, colon, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if scheme != "tcp" or not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{address!r} is no address: write tcp://HOST:PORT or ipc://PATH")
    return host, int(port)


def join_tcp(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


async def resolve(address: str) -> list[str]:
    """The numeric addresses that a name stands for just now, at least one, IPv4 before IPv6.
    Raises OSError when the name is not known, ConfigError for a malformed address."""
    parts = split_tcp(address)
    if parts is None:
        return [address]
    host, port = parts
    if host == "*":
        return [address]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    hosts = dict.fromkeys(str(entry[4][0]) for entry in found)
    return [join_tcp(numeric, port) for numeric in hosts]


def ipc_is_served(address: str) -> bool:
    """Whether a process accepts connections on this path. ZeroMQ would silently take it over."""
    path = address.removeprefix("ipc://")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(f"\0{path[1:]}" if path.startswith("@") else path)
    except OSError:
        return False
    finally:
        probe.close()
    return True

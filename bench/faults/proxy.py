"""TCP links that can be cut.

Everything runs on one thread with an event loop of its own. While a link is cut, its connections
stay open and no byte passes, in either direction, as when packets vanish; new connections are
accepted by the kernel and get no further. When it is mended, what was written meanwhile arrives,
as TCP would deliver it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

_PIECE = 1 << 16
_LEAST_PORT = 10_000
_ports = random.SystemRandom()
"""Two processes that look for a port at once find different ones."""


class Link:
    """One listening port and where it leads. `target` is asked for each connection, and may
    raise OSError while there is none."""

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        self.port = 0
        self.connections = 0
        self._target = target
        self._open = asyncio.Event()
        self._open.set()

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def set_cut(self, cut: bool) -> None:
        if cut:
            self._open.clear()
        else:
            self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _no_delay(writer)
        self.connections += 1
        try:
            await self._open.wait()
            there_reader, there_writer = await asyncio.open_connection(*self._target())
        except OSError:
            writer.close()
            return
        _no_delay(there_writer)
        await asyncio.gather(
            self._copy(reader, there_writer), self._copy(there_reader, writer)
        )

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until one end is closed; then the other end is, once the link carries that news."""
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE):
                await self._open.wait()
                writer.write(piece)
                await writer.drain()
        await self._open.wait()
        writer.close()


class Links:
    """All links of a cluster. A context manager; its thread ends with it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._links: dict[str, Link] = {}
        self._servers: list[asyncio.Server] = []

    def add(self, name: str, target: Callable[[], tuple[str, int]]) -> int:
        """A new link; returns the port to connect to instead of the target's."""

        async def make() -> int:
            link = self._links[name] = Link(target)
            self._servers.append(await link.serve())
            return link.port

        port: int = self._run(make())
        return port

    def cut(self, *names: str) -> None:
        """Nothing passes any more when this returns."""
        self._run(self._set(names, cut=True))

    def mend(self, *names: str) -> None:
        self._run(self._set(names, cut=False))

    async def _set(self, names: tuple[str, ...], *, cut: bool) -> None:
        for name in names:
            self._links[name].set_cut(cut)

    def connections(self, name: str) -> int:
        """How many were made so far."""
        return self._links[name].connections

    def close(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


def free_port() -> int:
    """A TCP port of loopback that nobody uses just now, nor will soon: connections, and servers
    that ask for any port, get theirs from a range of the system's. This one lies below it."""
    any_port = Path("/proc/sys/net/ipv4/ip_local_port_range")
    end = int(any_port.read_text().split()[0]) if any_port.exists() else 32768
    if end <= _LEAST_PORT:  # none lie below it that a user may take
        end = 1 << 16
    while True:
        port = _ports.randrange(_LEAST_PORT, end)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _no_delay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

"""One connection between a sender and a receiver on one host, on an event loop.

Messages arrive whole and in order, or the connection is lost, which both ends are told by the
kernel. What it does not take at once, because the peer does not read, waits here in order; how
much that can be is bounded by what is in flight.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

from baton.kvtransfer.shared.wire import MAX_BYTES, Message, WireError, unpack

log = logging.getLogger(__name__)

_MESSAGES_PER_TURN = 64
_MAX_FDS = 4
_CREDENTIALS = struct.Struct("3i")


class SocketLink:
    """`on_message(message, fds)` owns the descriptors it is given. `on_lost()` comes once, from the
    loop, unless the link was closed here. Set both before the next turn of the loop."""

    def __init__(self, connection: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = connection
        self._loop = loop
        self._waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._writing = False
        self._buffer = bytearray(MAX_BYTES)
        self._finishing = False
        self.closed = False
        self.on_message: Callable[[Message, Sequence[int]], None] = _unheard
        self.on_lost: Callable[[], None] = _unfelt
        connection.setblocking(False)
        loop.add_reader(connection.fileno(), self._read)

    @property
    def is_own_user(self) -> bool:
        """The peer runs as we do. Whoever else finds the socket is not served."""
        size = _CREDENTIALS.size
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return bool(_CREDENTIALS.unpack(data)[1] == os.geteuid())

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Nothing happens once the link is lost. Descriptors are duplicated if they have to
        wait."""
        if self.closed:
            return
        if not self._waiting:
            try:
                _send(self._socket, data, fds)
                return
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self._loop.call_soon(self._lose)
                return
        self._waiting.append((data, tuple(os.dup(fd) for fd in fds)))
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._socket.fileno(), self._write)

    def finish(self) -> None:
        """Close, once the kernel has all that was sent."""
        self._finishing = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Idempotent. What still waits is not sent."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket.fileno())
        if self._writing:
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for _, fds in self._waiting:
            _close(fds)
        self._waiting.clear()

    def _write(self) -> None:
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                _send(self._socket, data, fds)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._lose()
                return
            self._waiting.popleft()
            _close(fds)
        self._writing = False
        self._loop.remove_writer(self._socket.fileno())
        if self._finishing:
            self.close()

    def _read(self) -> None:
        for _ in range(_MESSAGES_PER_TURN):
            if self.closed:
                return
            try:
                data, fds = _receive(self._socket, self._buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._lose()
                return
            if not len(data):
                _close(fds)
                self._lose()
                return
            try:
                message = unpack(data)
            except WireError as error:
                log.error("a peer that takes or offers blocks: %s", error)
                _close(fds)
                self._lose()
                return
            try:
                self.on_message(message, fds)
            except Exception:
                log.exception("handling a message of a peer failed")

    def _lose(self) -> None:
        if not self.closed:
            self.close()
            self.on_lost()


def _send(connection: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    if fds:
        rights = array.array("i", fds)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        connection.sendmsg([data], control, socket.MSG_NOSIGNAL)
    else:
        connection.send(data, socket.MSG_NOSIGNAL)


def _receive(connection: socket.socket, buffer: bytearray) -> tuple[memoryview, list[int]]:
    """A view of the buffer, good until the next call."""
    room = socket.CMSG_SPACE(_MAX_FDS * 4)
    size, control, _, _ = connection.recvmsg_into([buffer], room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) // 4 * 4])
    return memoryview(buffer)[:size], list(fds)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _unheard(message: Message, fds: Sequence[int]) -> None:
    _close(fds)


def _unfelt() -> None:
    """Nobody wanted to know."""

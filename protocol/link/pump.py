"""One ZeroMQ socket driven by the running event loop.

ZeroMQ's descriptor only says that *something* changed, and any call on the socket may swallow the
signal. So each pass takes all messages, lets the owner send, and then asks the socket again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import zmq

from baton.protocol.wire import MAX_RECORD_BYTES

MESSAGES_PER_PASS = 256
DRAIN_PASSES = 64
LINGER_MS = 200
"""How long a closed socket may still deliver its goodbye."""


def new_socket(kind: int, address: str) -> zmq.Socket[bytes]:
    """A socket on the process's one context, for this numeric address."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_RECORD_BYTES + (1 << 20))
    socket.setsockopt(zmq.IPV6, int("[" in address))
    return socket


def say_goodbyes(linger_ms: int = LINGER_MS) -> None:
    """Before the process ends: what its sockets were given has left afterwards, or nobody took it
    in time. ZeroMQ sends on a thread of its own, and an exit does not wait for that: its peers
    would take an end that was intended for a death. There are no sockets afterwards."""
    zmq.Context.instance().destroy(linger_ms)


class Pump:
    """Calls `on_message(parts)` for each message and `on_pass(now)` after each batch of them, after
    `wake` and at the time that `on_pass` returned last (infinity is never). Owns the
    socket. Everything on the loop's thread."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_message: Callable[[list[bytes]], None],
        on_pass: Callable[[float], float],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = socket
        self._on_message = on_message
        self._on_pass = on_pass
        self._pass_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._closed = False
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._pass)
        self.wake()

    def now(self) -> float:
        return self._loop.time()

    def wake(self) -> None:
        """Make a pass soon; many wakes make one pass."""
        if self._pass_handle is None and not self._closed:
            self._pass_handle = self._loop.call_soon(self._pass)

    def send(self, parts: list[bytes]) -> bool:
        """Without blocking. False when the peer is not there. A message beyond the high-water
        mark is dropped: sessions send it again."""
        if self._closed:
            return False
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def drain(self) -> None:
        """Take what has arrived, before its sender is given up."""
        for _ in range(DRAIN_PASSES):
            if self._closed or not self._receive():
                return
        self.wake()

    def close(self) -> None:
        """Idempotent. What was sent before may still leave within LINGER_MS."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        if self._pass_handle is not None:
            self._pass_handle.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._socket.close()

    def _pass(self) -> None:
        if self._pass_handle is not None:
            self._pass_handle.cancel()
            self._pass_handle = None
        self._receive()
        if self._closed:
            return
        self._rearm(self._on_pass(self._loop.time()))

    def _receive(self) -> bool:
        """Whether there may be more."""
        for _ in range(MESSAGES_PER_PASS):
            if self._closed:
                return False
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._on_message(parts)
        return True

    def _rearm(self, deadline: float) -> None:
        if self._closed:
            return
        events = self._socket.getsockopt(zmq.EVENTS)
        assert isinstance(events, int)
        if events & zmq.POLLIN:
            self.wake()
        # A timer that fires early costs one idle pass; re-arming at each pass would cost more.
        if self._timer is not None and self._timer_at <= deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = deadline
        if deadline != math.inf:
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._pass()

"""The verbs of a transport: post a receive, connect, post a send.

One transport belongs to one event loop and is used only from its thread. Nothing here cancels:
an operation ends when the transport says so, and until then its memory is not to be reused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from baton.kvtransfer.traffic import Totals

Buffer = Any
"""Writable contiguous memory: buffer protocol (host) or `__cuda_array_interface__` (device).
May be empty (zero bytes)."""


class Operation:
    """One send or receive under way. `error` is None after success."""

    __slots__ = ("buffer", "done", "error", "on_done")

    def __init__(self, buffer: Buffer, on_done: Callable[[Operation], None]) -> None:
        self.buffer: Buffer | None = buffer
        self.on_done = on_done
        self.done = False
        self.error: Exception | None = None

    def finish(self, error: Exception | None) -> None:
        """Called once by the transport, from its loop, never from within the posting call."""
        self.done = True
        self.error = error
        self.buffer = None
        self.on_done(self)


class Endpoint(ABC):
    """The way to one peer, for sending."""

    @abstractmethod
    def post_send(
        self, buffer: Buffer, tag: int, on_done: Callable[[Operation], None]
    ) -> Operation:
        """Start sending. After success the buffer may be reused; the peer may not have it yet."""

    @property
    @abstractmethod
    def carriers(self) -> str:
        """What moves the bytes, for logs and metrics, such as "posix" or "tcp"."""

    @abstractmethod
    def close(self) -> None:
        """Give the way up without blocking. Operations under way are not cancelled."""


class Transport(ABC):
    """One process's end."""

    name: str
    totals: Totals
    """What it has moved so far."""

    @property
    @abstractmethod
    def address(self) -> bytes:
        """What a peer passes to `connect`."""

    @abstractmethod
    def connect(self, address: bytes, *, same_host: bool) -> Endpoint:
        """A way to the transport with this address. Raises ConnectionError. A peer that is not
        there any more may also show only by failing sends."""

    @abstractmethod
    def post_receive(
        self, buffer: Buffer, tag: int, on_done: Callable[[Operation], None]
    ) -> Operation:
        """Await one message with exactly this tag, at most as long as the buffer. A shorter one
        completes it too. A receive whose peer died may never complete."""

    @abstractmethod
    async def close(self) -> None:
        """Release everything. Operations under way never report again."""

    def bytes_sent(self) -> dict[str, int]:
        """By what carried them, since the transport was made."""
        return self.totals.bytes_sent()

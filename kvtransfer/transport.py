"""The verbs of a transport: post a receive, connect, post a send.

One transport belongs to one event loop and is used only from its thread. Nothing here cancels:
an operation ends when the transport says so, and until then its memory is not to be reused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from baton.kvtransfer.traffic import Totals

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

Buffer = Any
"""Writable contiguous memory: buffer protocol (host) or `__cuda_array_interface__` (device), or
`Rows`. May be empty (zero bytes)."""


class Rows:
    """Scattered host memory that travels as one message: the rows `indexes` of `memory`
    ([n, bytes] uint8, each row contiguous), in this order, at least one. What is sent as rows may
    be received as one buffer, or as other rows, and the other way round."""

    __slots__ = ("address", "indexes", "last", "memory")

    def __init__(
        self, memory: Bytes, indexes: Sequence[int], address: int | None = None
    ) -> None:
        """`address` is that of `memory`, for who knows it already. Raises ValueError for memory of
        another form, IndexError for a row outside it."""
        # Lists and plain integers: once the caches are cold, the first call into each part of
        # numpy takes longer than all of this.
        if memory.ndim != 2 or memory.dtype != np.uint8 or memory.strides[1] != 1:
            raise ValueError("rows need an array [n, bytes] of uint8 with contiguous rows")
        self.memory = memory
        try:
            self.indexes = array("I", indexes)
        except OverflowError as error:
            raise IndexError(f"rows {indexes} are not all within 0..{len(memory) - 1}") from error
        if not self.indexes:
            raise ValueError("no rows")
        self.last = max(indexes)
        """The highest of them."""
        if self.last >= len(memory):
            raise IndexError(f"rows {indexes} are not all within 0..{len(memory) - 1}")
        self.address: int = (
            memory.__array_interface__["data"][0] if address is None else address
        )

    @property
    def nbytes(self) -> int:
        return len(self.indexes) * int(self.memory.shape[1])

    def copy(self) -> Bytes:
        """Their bytes, one row after the other."""
        return self.memory[self.indexes].reshape(-1)


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

    offers = False
    """The peer can take what lies in shared memory itself."""

    @abstractmethod
    def post_send(
        self, buffer: Buffer, tag: int, on_done: Callable[[Operation], None]
    ) -> Operation:
        """Start sending. After success the buffer may be reused; the peer may not have it yet."""

    def offer(
        self, buffer: Buffer, tag: int, on_done: Callable[[Operation], None]
    ) -> Operation:
        """As `post_send`, to an inbox that `pulls` and awaits the message with `take`."""
        return self.post_send(buffer, tag, on_done)

    @property
    @abstractmethod
    def carriers(self) -> str:
        """What moves the bytes, for logs and metrics, such as "posix" or "tcp"."""

    @abstractmethod
    def close(self) -> None:
        """Give the way up without blocking. Operations under way are not cancelled."""


class Inbox(ABC):
    """Where messages arrive."""

    @property
    @abstractmethod
    def address(self) -> bytes:
        """What a peer passes to `connect` to send here."""

    @abstractmethod
    def post_receive(
        self, buffer: Buffer, tag: int, on_done: Callable[[Operation], None]
    ) -> Operation:
        """Await one message with exactly this tag, at most as long as the buffer. A shorter one
        completes it too. A receive whose peer died may never complete."""

    @property
    def pulls(self) -> bool:
        """It copies what its sender offers from the sender's own memory."""
        return False

    def take(self, buffer: Buffer, tag: int, on_done: Callable[[Operation], None]) -> Operation:
        """As `post_receive`, for a message that is offered."""
        return self.post_receive(buffer, tag, on_done)

    def abandon(self, operation: Operation) -> None:  # noqa: B027
        """The sender of this receive is gone. It may never report; where the transport writes by
        itself, nothing is written any more."""

    @abstractmethod
    def watch(self, tag: int, on_arrival: Callable[[], None]) -> None:
        """Call back once, from the loop, when a message with this tag is here, or waits at its
        sender to be taken, and no receive has been posted for it. It then needs a receive."""

    @abstractmethod
    def unwatch(self, tag: int) -> None:
        """Not any more. Nothing happens when the tag is not watched."""


class Transport(Inbox):
    """One process's end, with an inbox for whoever has none of its own."""

    name: str
    totals: Totals
    """What it has moved so far."""

    @abstractmethod
    def connect(self, address: bytes, *, same_host: bool) -> Endpoint:
        """A way to the inbox with this address. Raises ConnectionError. A peer that is not there
        any more may also show only by failing sends."""

    def inbox(self, peer: Hashable, sender: bytes | None = None) -> Inbox:
        """For this sender alone, where a sender that dies could block an inbox for all; the same
        one each time, until `forget`. `sender`: the address of its transport, on this host, given
        anew each time that it connects: the inbox `pulls` if that can be."""
        return self

    def forget(self, peer: Hashable) -> None:
        """The sender is gone. Nothing is written any more by what it sent, and no operation in
        its inbox reports again. Nothing happens when it has none."""

    @abstractmethod
    async def close(self) -> None:
        """Release everything. Operations under way never report again."""

    def bytes_sent(self) -> dict[str, int]:
        """By what carried them, since the transport was made."""
        return self.totals.bytes_sent()

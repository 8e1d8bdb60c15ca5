"""A transport within one process, for tests: all its ends are on one event loop.

Every send waits for its receive, whatever its size, which is the stricter of the two ways in
which UCX may behave.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from baton.kvtransfer.traffic import Totals
from baton.kvtransfer.transport import Buffer, Endpoint, Operation, Rows, Transport

OnDone = Callable[[Operation], None]

_PREFIX = b"inproc:"
_numbers = itertools.count(1)
_transports: WeakValueDictionary[bytes, InprocTransport] = WeakValueDictionary()


class InprocEndpoint(Endpoint):
    """Made by `InprocTransport.connect`."""

    def __init__(self, sender: InprocTransport, receiver: InprocTransport) -> None:
        self._sender = sender
        self._receiver = receiver
        self._closed = False

    @property
    def carriers(self) -> str:
        return "inproc"

    def post_send(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        _bytes_of(buffer)
        operation = Operation(buffer, on_done)
        if self._closed:
            self._sender.end_send(operation, 0, ConnectionAbortedError("the endpoint was closed"))
        else:
            self._receiver.arrive(self._sender, operation, tag)
        return operation

    def close(self) -> None:
        self._closed = True


class InprocTransport(Transport):
    """Made on a running loop. Its ends meet by address through a registry of this process."""

    name = "inproc"

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.totals = Totals()
        self.closed = False
        self._address = _PREFIX + str(next(_numbers)).encode()
        self._receives: dict[int, deque[Operation]] = {}
        self._arrived: dict[int, deque[tuple[InprocTransport, Operation]]] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        _transports[self._address] = self

    @property
    def address(self) -> bytes:
        return self._address

    def connect(self, address: bytes, *, same_host: bool) -> InprocEndpoint:
        peer = _transports.get(address)
        if self.closed or peer is None or peer.closed:
            raise ConnectionError(f"no transport at {address!r}")
        if peer.loop is not self.loop:
            raise ConnectionError(f"the transport at {address!r} is on another event loop")
        return InprocEndpoint(self, peer)

    def post_receive(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        if self.closed:
            raise RuntimeError("the transport is closed")
        _bytes_of(buffer)
        operation = Operation(buffer, on_done)
        self._receives.setdefault(tag, deque()).append(operation)
        self._match(tag)
        return operation

    def watch(self, tag: int, on_arrival: Callable[[], None]) -> None:
        self._watched[tag] = on_arrival
        self._tell_arrival(tag)

    def unwatch(self, tag: int) -> None:
        self._watched.pop(tag, None)

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._watched.clear()
        _transports.pop(self._address, None)
        self._receives.clear()
        for queue in self._arrived.values():
            for sender, operation in queue:
                sender.end_send(operation, 0, ConnectionResetError("the peer has closed"))
        self._arrived.clear()

    def arrive(self, sender: InprocTransport, operation: Operation, tag: int) -> None:
        """A send towards us was posted."""
        if self.closed:
            sender.end_send(operation, 0, ConnectionResetError("the peer has closed"))
            return
        self._arrived.setdefault(tag, deque()).append((sender, operation))
        self._match(tag)
        self._tell_arrival(tag)

    def end_send(self, operation: Operation, num_bytes: int, error: Exception | None) -> None:
        self._end_soon(operation, num_bytes, error, self.totals.by("inproc").count)

    def _tell_arrival(self, tag: int) -> None:
        def tell() -> None:
            if tag in self._arrived and tag in self._watched:
                self._watched.pop(tag)()

        if tag in self._arrived and tag in self._watched:
            self.loop.call_soon(tell)

    def _match(self, tag: int) -> None:
        """Move the bytes of what matches. The callbacks come on later turns of the loop."""
        receives, arrived = self._receives.get(tag), self._arrived.get(tag)
        if not receives or not arrived:
            return
        receive = receives.popleft()
        sender, send = arrived.popleft()
        if not receives:
            del self._receives[tag]
        if not arrived:
            del self._arrived[tag]
        if sender.closed:
            # Its memory is no longer ours to read; as if the message had never been sent.
            self._receives.setdefault(tag, deque()).appendleft(receive)
            self._match(tag)
            return
        source, target = _bytes_of(send.buffer), _bytes_of(receive.buffer)
        error: Exception | None = None
        if len(source) <= len(target):
            target[: len(source)] = source
            if isinstance(receive.buffer, Rows):
                rows = receive.buffer
                full, width = divmod(len(source), rows.memory.shape[1])
                landed = np.frombuffer(target, np.uint8).reshape(len(rows.indexes), -1)
                rows.memory[rows.indexes[:full]] = landed[:full]
                if width:
                    rows.memory[rows.indexes[full], :width] = landed[full, :width]
        else:
            error = OSError(f"message of {len(source)} bytes for a buffer of {len(target)}")
        sender.end_send(send, len(source), None)
        self._end_soon(receive, len(target), error, self.totals.received.count)

    def _end_soon(
        self,
        operation: Operation,
        num_bytes: int,
        error: Exception | None,
        count: Callable[[int, Exception | None], None],
    ) -> None:
        def end() -> None:
            if not self.closed:
                count(num_bytes, error)
                operation.finish(error)

        self.loop.call_soon(end)


def _bytes_of(buffer: Any) -> memoryview:
    """Raises ValueError unless `buffer` is contiguous host memory, or rows: then a copy."""
    if isinstance(buffer, Rows):
        return buffer.copy().data
    try:
        view = memoryview(buffer)
    except TypeError as error:
        raise ValueError(f"not a buffer: {error}") from error
    if not view.contiguous:
        raise ValueError("a buffer must be contiguous")
    # A view with a zero in its shape cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(bytearray())

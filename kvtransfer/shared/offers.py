"""What one sender offers to one receiver, until it is taken.

    offered -> taken by the receiver: done
       |  -> declined: sent over UCX, done when UCX says so
       +--> the connection is lost: an error. The receiver has stopped reading by then: it ends a
            connection after its copies, and the kernel ends those of a dead process after its last
            instruction.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from baton.kernels.shared_memory import Region, region_of
from baton.kvtransfer.shared import wire
from baton.kvtransfer.shared.socket_link import SocketLink
from baton.kvtransfer.transport import Buffer, Operation, Rows

log = logging.getLogger(__name__)

_MAX_ROWS = wire.MAX_BYTES // 4 - 64
_ONE_ROW = array("I", [0])


class Offers:
    """Made before or after its connection is there; what is offered before that waits for it.
    `on_end` is called once, when it is closed or its connection is lost."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[Operation, Exception | None], None],
        on_end: Callable[[], None],
    ) -> None:
        """`ended(operation, error)` is called once for each that is not sent over UCX."""
        self._loop = loop
        self._ended = ended
        self._on_end = on_end
        self._link: SocketLink | None = None
        self._waiting: list[tuple[bytes, tuple[int, ...]]] = []
        self._open: dict[int, tuple[Operation, int, Resend]] = {}
        self._numbers = itertools.count(1)
        self._told: dict[Region, int] = {}
        self._memory_numbers = itertools.count(1)
        self.ended = False
        self._on_settled: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        """Something is offered that nobody has taken yet."""
        return bool(self._open)

    def opened(self, link: SocketLink) -> None:
        """The receiver's connection is there. It has one only."""
        if self._link is not None:
            link.close()
            return
        self._link = link
        link.on_message = self._heard
        link.on_lost = self.lose
        for data, fds in self._waiting:
            link.send(data, fds)
        self._waiting.clear()
        if self.ended:  # all that was left is to say what comes over UCX
            link.finish()
            self._on_end()

    def offer(self, buffer: Buffer, tag: int, operation: Operation, resend: Resend) -> bool:
        """False when this memory cannot be mapped by others; then nothing was offered. `resend`
        is called with the operation when the receiver wants it over UCX."""
        if isinstance(buffer, Rows):
            start, stride = buffer.address, buffer.memory.strides[0]
            width, indexes = buffer.memory.shape[1], buffer.indexes
            end = start + buffer.last * stride + width
        elif isinstance(buffer, np.ndarray) and buffer.flags.c_contiguous and buffer.nbytes:
            start, stride, width, indexes = _address(buffer), 0, buffer.nbytes, _ONE_ROW
            end = start + width
        else:
            return False
        region = region_of(start, end - start)
        if region is None or len(indexes) > _MAX_ROWS:
            return False
        number = next(self._numbers) & 0xFFFFFFFF
        memory = self._told.get(region) or self._tell_of(region)
        self._open[number] = operation, tag, resend
        offset = start - region.address
        self._send(wire.pack_offer(number, tag, memory, offset, stride, width, indexes))
        return True

    def offer_nothing(self, tag: int, operation: Operation, resend: Resend) -> None:
        """A message of no bytes, for a tag that is awaited here or in UCX."""
        number = next(self._numbers) & 0xFFFFFFFF
        self._open[number] = operation, tag, resend
        self._send(wire.pack_empty(number, tag))

    def announce(self, tag: int) -> None:
        """What is awaited under this tag comes over UCX."""
        self._send(wire.pack_elsewhere(tag))

    def join(self, on_settled: Callable[[], None]) -> None:
        """An endpoint offers here from now on. `on_settled` is called whenever nothing is open."""
        self._on_settled.append(on_settled)

    def leave(self, on_settled: Callable[[], None]) -> None:
        """The last endpoint to go ends the connection, once all is said."""
        self._on_settled.remove(on_settled)
        if not self._on_settled and not self.ended:
            self.ended = True
            if self._link is not None:
                self._link.finish()
            if self._link is not None or not self._waiting:
                self._on_end()

    def lose(self) -> None:
        """The receiver is gone, or does not want us any more."""
        self._end(ConnectionResetError("the receiver has ended the connection"))

    def close(self) -> None:
        """Nothing reports any more."""
        self._open.clear()
        self._end(ConnectionAbortedError("the transport was closed"))

    def _tell_of(self, region: Region) -> int:
        for known in [known for known in self._told if known.is_gone]:
            self._send(wire.pack_gone(self._told.pop(known)))
        number = self._told[region] = next(self._memory_numbers)
        self._send(wire.pack_memory(number, region.size), (region.fd,))
        return number

    def _send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        if self._link is not None:
            self._link.send(data, fds)
        else:
            self._waiting.append((data, fds))

    def _heard(self, message: wire.Message, fds: Sequence[int]) -> None:
        assert not fds, "receivers send no descriptors"
        if isinstance(message, wire.Taken):
            for number in message.numbers:
                self._taken(number)
        elif isinstance(message, wire.Declined):
            entry = self._open.pop(message.number, None)
            if entry is not None:
                operation, tag, resend = entry
                resend(operation, tag)
        if not self._open:
            self._settled()

    def _taken(self, number: int) -> None:
        entry = self._open.pop(number, None)
        if entry is not None:
            self._report(entry[0], None)

    def _report(self, operation: Operation, error: Exception | None) -> None:
        try:
            self._ended(operation, error)
        except Exception:
            # A callback's mistake is its own: the operations behind it still have to report.
            log.exception("the callback of an operation failed")

    def _settled(self) -> None:
        for each in list(self._on_settled):
            each()

    def _end(self, error: ConnectionError) -> None:
        if self.ended:
            return
        self.ended = True
        if self._link is not None:
            self._link.close()
        self._waiting.clear()
        left = list(self._open.values())
        self._open.clear()
        for operation, _, _ in left:
            self._loop.call_soon(self._report, operation, error)
        self._on_end()
        self._loop.call_soon(self._settled)


Resend = Callable[[Operation, int], None]


def _address(buffer: np.ndarray[Any, Any]) -> int:
    address: int = buffer.__array_interface__["data"][0]
    return address

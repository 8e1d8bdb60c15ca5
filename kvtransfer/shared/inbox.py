"""Where what is offered meets the receives that take it.

    take -> awaited -> offered: copied on the copying thread -> done
      |        |   -> no bytes: done
      |        |   -> comes over UCX: awaited there -> done when UCX says so
      |        +-> abandoned: never reports
      +-> offered already: the same at once

What is offered before it is awaited waits here, its memory kept by the sender.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from baton.kernels.native.copying import Copier, Job
from baton.kernels.native.copying import Rows as CopiedRows
from baton.kvtransfer import transport
from baton.kvtransfer.counted import CountedOperation, OnDone
from baton.kvtransfer.shared import wire
from baton.kvtransfer.shared.mappings import SenderMemory, map_memory
from baton.kvtransfer.shared.meeting import TOKEN_BYTES, dial
from baton.kvtransfer.shared.socket_link import SocketLink
from baton.kvtransfer.traffic import Traffic
from baton.kvtransfer.transport import Buffer, Operation, Rows

if TYPE_CHECKING:
    from baton.kvtransfer.ucx.inbox import UcxInbox

log = logging.getLogger(__name__)


class _Connection:
    """One connection to the sender, the memory it told of, and answers not yet given."""

    def __init__(self, link: SocketLink) -> None:
        self.link = link
        self.memories: dict[int, SenderMemory] = {}
        self.taken: list[int] = []

    def give_up_memories(self) -> None:
        for memory in self.memories.values():
            memory.give_up()
        self.memories.clear()


_Arrived = tuple[_Connection, wire.Offer | wire.Empty | wire.Elsewhere]
_Copy = tuple[Job, SenderMemory]


class SharedInbox(transport.Inbox):
    """On top of a UCX inbox for the same sender, and its owner. `ended` as of `UcxInbox`."""

    def __init__(
        self,
        ucx: UcxInbox,
        copier: Copier,
        loop: asyncio.AbstractEventLoop,
        received: Traffic,
        ended: Callable[[Operation, Exception | None], None],
    ) -> None:
        self._ucx = ucx
        self._copier = copier
        self._loop = loop
        self._received = received
        self._ended = ended
        self._lane = copier.lane()
        self._token = b""
        self._connections: set[_Connection] = set()
        self._current: _Connection | None = None
        self._awaited: dict[int, deque[CountedOperation]] = {}
        self._arrived: dict[int, deque[_Arrived]] = {}
        self._in_ucx: dict[int, int] = {}
        """How many receives UCX has for a tag."""
        self._watched: dict[int, Callable[[], None]] = {}
        self._tags: dict[Operation, int] = {}
        """Of what has not met its message."""
        self._copies: dict[Operation, _Copy] = {}
        self.closed = False

    def dial(self, meeting: str) -> None:
        """Connect to the sender, in place of an earlier connection, which goes on until the sender
        ends it. Raises OSError."""
        self._token, self._current = b"", None
        token = secrets.token_bytes(TOKEN_BYTES)
        dial(meeting, token, self._loop, self._opened)
        self._token = token

    @property
    def address(self) -> bytes:
        return msgspec.structs.replace(self._ucx.described, token=self._token).pack()

    @property
    def pulls(self) -> bool:
        return self._current in self._connections

    def post_receive(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        def done(operation: Operation) -> None:
            self._in_ucx[tag] -= 1
            if not self._in_ucx[tag]:
                del self._in_ucx[tag]
            on_done(operation)

        operation = self._ucx.post_receive(buffer, tag, done)
        self._in_ucx[tag] = self._in_ucx.get(tag, 0) + 1
        arrived = self._take_arrived(tag)
        if arrived is not None:
            self._decline(*arrived)
        return operation

    def take(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        if self.closed:
            raise RuntimeError("the transport is closed")
        size = _size(buffer)
        operation = CountedOperation(buffer, on_done, size, self._received)
        self._tags[operation] = tag
        arrived = self._take_arrived(tag)
        if arrived is None:
            self._awaited.setdefault(tag, deque()).append(operation)
        else:
            self._loop.call_soon(self._meet, operation, tag, *arrived)
        return operation

    def abandon(self, operation: Operation) -> None:
        copy = self._copies.pop(operation, None)
        if copy is not None:
            job, memory = copy
            self._copier.cancel(job)
            memory.end()
            return
        tag = self._tags.pop(operation, None)
        if tag is not None and tag in self._awaited:
            left = deque(each for each in self._awaited[tag] if each is not operation)
            if left:
                self._awaited[tag] = left
            else:
                del self._awaited[tag]

    def watch(self, tag: int, on_arrival: Callable[[], None]) -> None:
        self._watched[tag] = on_arrival
        self._ucx.watch(tag, lambda: self._told(tag))
        self._tell_arrival(tag)

    def unwatch(self, tag: int) -> None:
        self._ucx.unwatch(tag)
        self._watched.pop(tag, None)

    def close(self) -> None:
        """No callback and no byte after this."""
        if self.closed:
            return
        self.closed = True
        for job, memory in self._copies.values():
            self._copier.cancel(job)
            memory.end()
        self._copies.clear()
        self._awaited.clear()
        self._tags.clear()
        self._watched.clear()
        for connection in self._connections:
            connection.link.close()
            connection.give_up_memories()
        self._connections.clear()
        self._copier.end_lane(self._lane)
        self._ucx.close()

    # -- what the sender says ------------------------------------------------------------------

    def _opened(self, link: SocketLink) -> None:
        connection = _Connection(link)
        self._connections.add(connection)
        self._current = connection
        link.on_message = lambda message, fds: self._heard(connection, message, fds)
        link.on_lost = lambda: self._lost(connection)

    def _lost(self, connection: _Connection) -> None:
        """What was offered and not begun cannot be answered any more; copies go to their end."""
        self._connections.discard(connection)
        connection.give_up_memories()
        for tag, arrived in list(self._arrived.items()):
            left = deque(each for each in arrived if each[0] is not connection)
            if left:
                self._arrived[tag] = left
            else:
                del self._arrived[tag]

    def _heard(
        self, connection: _Connection, message: wire.Message, fds: Sequence[int]
    ) -> None:
        if isinstance(message, wire.Memory):
            memory = map_memory(message.size, fds)
            if memory is not None:
                connection.memories[message.number] = memory
        elif isinstance(message, wire.MemoryGone):
            gone = connection.memories.pop(message.number, None)
            if gone is not None:
                gone.give_up()
        elif isinstance(message, wire.Offer | wire.Empty | wire.Elsewhere):
            self._arrive(connection, message)

    def _arrive(
        self, connection: _Connection, message: wire.Offer | wire.Empty | wire.Elsewhere
    ) -> None:
        tag = message.tag
        awaited = self._awaited.get(tag)
        if awaited:
            operation = awaited.popleft()
            if not awaited:
                del self._awaited[tag]
            self._meet(operation, tag, connection, message)
        elif tag in self._in_ucx:
            self._decline(connection, message)
        else:
            self._arrived.setdefault(tag, deque()).append((connection, message))
            self._tell_arrival(tag)

    def _take_arrived(self, tag: int) -> _Arrived | None:
        arrived = self._arrived.get(tag)
        if not arrived:
            return None
        first = arrived.popleft()
        if not arrived:
            del self._arrived[tag]
        return first

    def _tell_arrival(self, tag: int) -> None:
        def tell() -> None:
            if tag in self._arrived:
                self._told(tag)

        if tag in self._arrived and tag in self._watched:
            self._loop.call_soon(tell)

    def _told(self, tag: int) -> None:
        """Here or in UCX, whichever hears of it first."""
        on_arrival = self._watched.pop(tag, None)
        if on_arrival is not None:
            self._ucx.unwatch(tag)
            on_arrival()

    # -- a receive and its message -------------------------------------------------------------

    def _meet(
        self,
        operation: CountedOperation,
        tag: int,
        connection: _Connection,
        message: wire.Offer | wire.Empty | wire.Elsewhere,
    ) -> None:
        """Never from within the posting call."""
        if self.closed:
            return
        if self._tags.pop(operation, None) is None:  # abandoned meanwhile
            if not isinstance(message, wire.Elsewhere):
                self._answer(connection, message.number)
        elif isinstance(message, wire.Elsewhere):
            self._await_in_ucx(operation, tag)
        elif isinstance(message, wire.Empty):
            self._answer(connection, message.number)
            self._finish(operation, None)
        else:
            self._copy(operation, tag, connection, message)

    def _copy(
        self, operation: CountedOperation, tag: int, connection: _Connection, offer: wire.Offer
    ) -> None:
        memory = connection.memories.get(offer.memory)
        if memory is None or not offer.fits(memory.size):
            log.error("an offer of memory that is not there; it is asked for over UCX")
            self._await_in_ucx(operation, tag)
            self._decline(connection, offer)
            return
        if offer.size > operation.num_bytes:
            error = OSError(f"message of {offer.size} bytes for {operation.num_bytes}")
            self._answer(connection, offer.number)
            self._finish(operation, error)
            return
        source = CopiedRows(memory.address + offer.start, offer.stride, offer.width, offer.indexes)

        def done() -> None:
            memory.end()
            self._copies.pop(operation, None)
            self._answer(connection, offer.number)
            self._finish(operation, None)

        memory.begin()
        job = self._copier.submit(
            self._lane, source, _rows(operation.buffer), offer.size, done, operation.buffer
        )
        self._copies[operation] = job, memory

    def _await_in_ucx(self, operation: CountedOperation, tag: int) -> None:
        self.post_receive(operation.buffer, tag, lambda ended: operation.finish(ended.error))

    def _decline(
        self, connection: _Connection, message: wire.Offer | wire.Empty | wire.Elsewhere
    ) -> None:
        if not isinstance(message, wire.Elsewhere):
            connection.link.send(wire.pack_declined(message.number))

    def _answer(self, connection: _Connection, number: int) -> None:
        """Told once for all that are over in this turn of the loop."""
        if not connection.taken:
            self._loop.call_soon(self._answer_all, connection)
        connection.taken.append(number)

    def _answer_all(self, connection: _Connection) -> None:
        connection.link.send(wire.pack_taken(connection.taken))
        connection.taken = []

    def _finish(self, operation: CountedOperation, error: Exception | None) -> None:
        if self.closed:
            return
        try:
            self._ended(operation, error)
        except Exception:
            # A callback's mistake is its own: the operations behind it still have to report.
            log.exception("the callback of an operation failed")


def _rows(buffer: Any) -> CopiedRows:
    if isinstance(buffer, Rows):
        stride, width = int(buffer.memory.strides[0]), int(buffer.memory.shape[1])
        return CopiedRows(buffer.address, stride, width, buffer.indexes)
    view = np.frombuffer(buffer, np.uint8)
    return CopiedRows(view.__array_interface__["data"][0], 0, view.nbytes, array("I", [0]))


def _size(buffer: Any) -> int:
    """Raises ValueError unless it is writable contiguous host memory, or rows."""
    if isinstance(buffer, Rows):
        return buffer.nbytes
    try:
        view = memoryview(buffer)
    except TypeError as error:
        raise ValueError(f"not a buffer: {error}") from error
    if not view.contiguous or view.readonly:
        raise ValueError("a buffer must be contiguous, and writable")
    return view.nbytes

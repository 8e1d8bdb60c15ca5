"""The way to a receiver that takes blocks itself: what is in shared memory is offered, the rest
goes over UCX."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from baton.kvtransfer import transport
from baton.kvtransfer.counted import CountedOperation, OnDone
from baton.kvtransfer.shared.offers import Offers
from baton.kvtransfer.traffic import Traffic
from baton.kvtransfer.transport import Buffer, Operation, Rows

if TYPE_CHECKING:
    from baton.kvtransfer.ucx.transport import UcxEndpoint

CARRIER = "shared"


class SharedEndpoint(transport.Endpoint):
    """On top of the UCX endpoint to the same inbox, and its owner. It is lost as soon as either is:
    then everything fails at once, and so does what comes later. Once closed, it lets what is under
    way finish; `ended` as of `Offers`."""

    offers = True

    def __init__(
        self,
        ucx: UcxEndpoint,
        offers: Offers,
        traffic: Traffic,
        ended: Callable[[Operation, Exception | None], None],
    ) -> None:
        self._ucx = ucx
        self._offers = offers
        self._traffic = traffic
        self._ended = ended
        self._closing = False
        self._settled = False
        offers.join(self._settle)
        ucx.on_lost = offers.lose
        if ucx.is_lost:
            offers.lose()

    @property
    def carriers(self) -> str:
        return f"{CARRIER}+{self._ucx.carriers}"

    def post_send(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        if _size(buffer) == 0:
            # An answer, to a grant whose receives may be here or there.
            return self._post_empty(buffer, tag, on_done)
        why = self._why_not()
        if why is not None:
            return self._fail(buffer, on_done, why)
        return self._ucx.post_send(buffer, tag, on_done)

    def offer(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        size = _size(buffer)
        if size == 0:
            return self._post_empty(buffer, tag, on_done)
        why = self._why_not()
        if why is not None:
            return self._fail(buffer, on_done, why)
        operation = CountedOperation(buffer, on_done, size or 0, self._traffic)
        if self._offers.offer(buffer, tag, operation, self._resend):
            return operation
        sent = self._ucx.post_send(buffer, tag, on_done)
        self._offers.announce(tag)
        return sent

    def close(self) -> None:
        self._closing = True
        self._settle()

    def _post_empty(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        why = self._why_not()
        if why is not None:
            return self._fail(buffer, on_done, why)
        operation = CountedOperation(buffer, on_done, 0, self._traffic)
        self._offers.offer_nothing(tag, operation, self._resend)
        return operation

    def _why_not(self) -> ConnectionError | None:
        """Why nothing goes this way any more."""
        if self._ucx.is_lost or (self._offers.ended and not self._settled):
            return ConnectionResetError("the receiver has ended the connection")
        if self._closing:
            return ConnectionAbortedError("the endpoint was closed")
        return None

    def _fail(self, buffer: Buffer, on_done: OnDone, error: ConnectionError) -> Operation:
        operation = CountedOperation(buffer, on_done, 0, self._traffic)
        asyncio.get_running_loop().call_soon(self._ended, operation, error)
        return operation

    def _resend(self, operation: Operation, tag: int) -> None:
        def done(sent: Operation) -> None:
            operation.finish(sent.error)

        self._ucx.post_send(operation.buffer, tag, done)

    def _settle(self) -> None:
        """Give all up once it is closed and nothing that was offered is open."""
        if self._closing and not self._settled and not self._offers.is_open:
            self._settled = True
            self._offers.leave(self._settle)
            self._ucx.close()


def _size(buffer: Buffer) -> int | None:
    """In bytes; None for what is no memory."""
    if isinstance(buffer, Rows):
        return buffer.nbytes
    size = getattr(buffer, "nbytes", None)
    if size is None:
        try:
            size = memoryview(buffer).nbytes
        except TypeError:
            return None
    return int(size)

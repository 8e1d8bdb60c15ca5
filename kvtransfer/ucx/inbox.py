"""Where UCX messages arrive: a UCX worker with a shared-memory queue of its own.

All senders of one host write into the queue of the worker that they send to. When one of them is
killed in the midst of a transfer, nothing that anyone sends arrives there any more, up to every
second time: it had reserved a place, it seems, that is now never filled. So each sender gets an
inbox of its own, and takes down nothing but that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from baton.kvtransfer import transport
from baton.kvtransfer.counted import OnDone
from baton.kvtransfer.traffic import Traffic
from baton.kvtransfer.transport import Buffer, Operation
from baton.kvtransfer.ucx import binding
from baton.kvtransfer.ucx.address import own_address
from baton.kvtransfer.ucx.operation import UcxOperation
from baton.kvtransfer.ucx.progress import Progress


class UcxInbox(transport.Inbox):
    """`ended(operation, error)` is called once for each operation, from the loop. Raises OSError
    when UCX cannot start."""

    def __init__(
        self,
        options: Mapping[str, str],
        loop: asyncio.AbstractEventLoop,
        received: Traffic,
        ended: Callable[[Operation, Exception | None], None],
        meeting: str = "",
    ) -> None:
        self.worker = binding.Worker(options)
        self.progress = Progress(self.worker, loop, ended)
        self._received = received
        self.described = own_address(binding.VERSION, self.worker.address, meeting)
        self._address = self.described.pack()
        self.closed = False

    @property
    def address(self) -> bytes:
        return self._address

    def post_receive(self, buffer: Buffer, tag: int, on_done: OnDone) -> Operation:
        if self.closed:
            raise RuntimeError("the transport is closed")
        array = binding.view(buffer)
        operation = UcxOperation(buffer, on_done, array.nbytes, self._received, None)
        request = self.worker.receive(array, tag)
        self.progress.outstanding.add_receive(tag, request, operation)
        self.progress.posted()
        return operation

    def watch(self, tag: int, on_arrival: Callable[[], None]) -> None:
        self.progress.watched[tag] = on_arrival
        self.progress.posted()

    def unwatch(self, tag: int) -> None:
        self.progress.watched.pop(tag, None)

    def close(self) -> None:
        """No callback after this, and no byte is written: UCX copies only while it is driven. It
        is kept until the process exits, since destroying it would wait for peers."""
        if not self.closed:
            self.closed = True
            self.progress.stop()
            binding.keep_until_exit(self.worker, list(self.progress.outstanding))

"""Moves blocks of this worker's pool by the scheme that a pair of workers agreed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from baton.kvtransfer.transport import Buffer, Endpoint, Transport
from baton.protocol.records import Scheme

OnDone = Callable[[Exception | None], None]


class Landing(Protocol):
    """A receive under way."""

    def detach(self) -> bool:
        """The blocks are given up: nothing is copied into them any more. False when the transport
        may still write into them, until the receive is done."""

    def abandon(self) -> None:
        """The sender's process is gone, so nothing will come: whatever is kept for this receive
        may be used again. It may never report that it is done."""


class BlockMover:
    """`block_buffer(i)` is the memory of block i."""

    def __init__(self, transport: Transport, block_buffer: Callable[[int], Buffer]) -> None:
        self._transport = transport
        self._block_buffer = block_buffer

    def send(
        self, endpoint: Endpoint, blocks: Sequence[int], tag: int, scheme: Scheme, on_done: OnDone
    ) -> None:
        """One message with these blocks. `on_done`: the blocks are not read any more."""
        (block,) = blocks
        endpoint.post_send(
            self._block_buffer(block), tag, lambda operation: on_done(operation.error)
        )

    def receive(
        self, blocks: Sequence[int], tag: int, scheme: Scheme, on_done: OnDone
    ) -> Landing:
        """Await one message into these blocks. `on_done`: it is in them, or (an error) nothing
        will come any more."""
        (block,) = blocks
        self._transport.post_receive(
            self._block_buffer(block), tag, lambda operation: on_done(operation.error)
        )
        return _Direct()


class _Direct:
    def detach(self) -> bool:
        return False

    def abandon(self) -> None:
        """Nothing but the blocks was kept."""

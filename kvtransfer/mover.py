"""Moves blocks of this worker's pool by the scheme that a pair of workers agreed on.

| scheme | at the sender | at the receiver |
|---|---|---|
| direct, 1 block a message | from the block | into the block |
| direct, more | from the blocks (`Rows`); through a buffer on a device | into the blocks |
| pulled | stays where it is until taken | copied into the blocks from the sender's memory |
| staged | through a buffer | through a buffer, taken when the message is there |

A sender whose layout differs from the receiver's always goes through a buffer, in which it lays
the blocks out as the receiver's. A staged receive takes its buffer only when its message is there
or waits at the sender to be taken: buffers are then never held for what is still being computed,
and a receiver without a free one holds its senders back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from baton.kvtransfer.conversion import Converter, Cut
from baton.kvtransfer.memory import Blocks
from baton.kvtransfer.staging import PULLED_MESSAGE, STAGING_BYTES, StagingBuffers
from baton.kvtransfer.transport import Buffer, Bytes, Endpoint, Inbox, Operation, Transport
from baton.protocol.records import Scheme

OnDone = Callable[[Exception | None], None]

Part = tuple[int, int]
"""Of each block of a message: the first byte, and the one after the last."""

RECEIVE_BUFFERS = 8
SEND_BUFFERS = 4
"""For each peer, so that one that takes nothing holds up nobody else."""


class Landing(Protocol):
    """A receive under way."""

    def detach(self) -> bool:
        """The blocks are given up: nothing is copied into them any more. False when the transport
        may still write into them, until the receive is done."""

    def abandon(self) -> None:
        """The sender's process is gone, so nothing will come: whatever is kept for this receive
        may be used again. It may never report that it is done."""


class BlockMover:
    """`on_done` of a send or receive comes from the loop, never from within the call."""

    def __init__(self, transport: Transport, blocks: Blocks) -> None:
        self.transport = transport
        self.blocks = blocks
        self._staging_bytes = max(STAGING_BYTES, blocks.block_bytes)
        self.landing_buffers = StagingBuffers(self._staging_bytes, RECEIVE_BUFFERS)
        self._parts: dict[Part, Blocks] = {}

    def part(self, part: Part | None) -> Blocks:
        """The blocks, or what these bytes are of each."""
        if part is None:
            return self.blocks
        blocks = self._parts.get(part)
        if blocks is None:
            blocks = self._parts[part] = self.blocks.part(*part)
        return blocks

    def send_buffers(self, block_bytes: int, *, shared: bool = False) -> StagingBuffers:
        """For one peer, whose blocks are that large. `shared`: it takes from them itself."""
        size = max(self._staging_bytes, block_bytes)
        if not self.blocks.scatters:
            size = max(size, PULLED_MESSAGE)  # every message goes through one
        return StagingBuffers(size, SEND_BUFFERS, shared=shared)

    def send(
        self,
        endpoint: Endpoint,
        blocks: Sequence[int],
        tag: int,
        scheme: Scheme,
        on_done: OnDone,
        *,
        buffers: StagingBuffers,
        converter: Converter | None = None,
        cut: Cut | None = None,
        part: Part | None = None,
    ) -> None:
        """One message with these blocks, or with `part` of each, or with what `cut` takes of
        them, converted. `on_done`: the blocks are not read any more. Raises ValueError for a
        message that has to be staged and is larger than a buffer."""
        scattered = len(blocks) > 1
        memory = self.part(part)
        post = endpoint.offer if scheme.pulled else endpoint.post_send
        if converter is not None:
            assert cut is not None, "a conversion needs to know how much"
            self._send_staged(memory, post, blocks, tag, on_done, buffers, converter, cut)
        elif scheme.staged or (scattered and not memory.scatters):
            self._send_staged(memory, post, blocks, tag, on_done, buffers, None, None)
        else:
            message = memory.rows(blocks) if scattered else memory.block(blocks[0])
            post(message, tag, lambda operation: on_done(operation.error))

    def receive(
        self,
        blocks: Sequence[int],
        tag: int,
        scheme: Scheme,
        on_done: OnDone,
        *,
        inbox: Inbox | None = None,
        part: Part | None = None,
    ) -> Landing:
        """Await one message into these blocks, or into `part` of each, in this inbox or that of
        the transport. `on_done`: it is in them, or (an error) nothing will come any more. Raises
        ValueError as `send`."""
        inbox = inbox or self.transport
        memory = self.part(part)
        if scheme.staged or (len(blocks) > 1 and not memory.scatters):
            return _Staged(self, memory, inbox, tuple(blocks), tag, on_done)
        landing = memory.rows(blocks) if len(blocks) > 1 else memory.block(blocks[0])
        post = inbox.take if scheme.pulled else inbox.post_receive
        return _Direct(inbox, post(landing, tag, lambda operation: on_done(operation.error)))

    def _send_staged(
        self,
        memory: Blocks,
        post: Callable[[Buffer, int, Callable[[Operation], None]], Operation],
        blocks: Sequence[int],
        tag: int,
        on_done: OnDone,
        buffers: StagingBuffers,
        converter: Converter | None,
        cut: Cut | None,
    ) -> None:
        size = len(blocks) * memory.block_bytes
        if converter is not None and cut is not None:
            size = converter.message_bytes(cut)
        if size > buffers.size:
            raise ValueError(f"message of {size} bytes for a staging buffer of {buffers.size}")

        def use(buffer: Bytes) -> None:
            message = buffer[:size]
            if converter is not None and cut is not None:
                converter.gather(memory, blocks, cut, message)
            else:
                memory.gather(blocks, message)

            def done(operation: Operation) -> None:
                buffers.give_back(buffer)
                on_done(operation.error)

            post(message, tag, done)

        buffers.take(use)


class _Direct:
    def __init__(self, inbox: Inbox, operation: Operation) -> None:
        self._inbox = inbox
        self._operation = operation

    def detach(self) -> bool:
        return False

    def abandon(self) -> None:
        self._inbox.abandon(self._operation)


class _Staged:
    """Awaited -> a buffer is waited for -> landing in it -> copied into the blocks, if these
    were not given up."""

    def __init__(
        self,
        mover: BlockMover,
        memory: Blocks,
        inbox: Inbox,
        blocks: tuple[int, ...],
        tag: int,
        on_done: OnDone,
    ) -> None:
        self._mover = mover
        self._memory = memory
        self._inbox = inbox
        self._blocks: tuple[int, ...] | None = blocks
        self._size = len(blocks) * memory.block_bytes
        if self._size > mover.landing_buffers.size:
            raise ValueError(f"message of {self._size} bytes for a staging buffer")
        self._tag = tag
        self._on_done = on_done
        self._landing = False
        self._lost = False
        self._abandoned = False
        inbox.watch(tag, lambda: mover.landing_buffers.take(self._land))

    def detach(self) -> bool:
        if self._blocks is not None:
            self._blocks = None
            if self._landing:
                self._lost = True
                self._mover.landing_buffers.lose()
        return True

    def abandon(self) -> None:
        self._inbox.unwatch(self._tag)
        self._abandoned = True
        if self._landing:
            self._landing = False
            self._mover.landing_buffers.forget(was_lost=self._lost)

    def _land(self, buffer: Bytes) -> None:
        if self._abandoned:
            self._mover.landing_buffers.give_back(buffer)
            return
        self._landing = True
        if self._blocks is None:
            self._lost = True
            self._mover.landing_buffers.lose()
        message = buffer[: self._size]

        def done(operation: Operation) -> None:
            if self._abandoned:
                return  # the buffer was written off
            self._landing = False
            if operation.error is None and self._blocks is not None:
                self._memory.scatter(self._blocks, message)
            self._mover.landing_buffers.give_back(buffer, was_lost=self._lost)
            self._on_done(operation.error)

        self._inbox.post_receive(message, self._tag, done)

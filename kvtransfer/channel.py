"""The way to one receiver: records through a session, blocks through a transport's endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from baton.kvtransfer.conversion import Converter, Cut
from baton.kvtransfer.mover import BlockMover, OnDone, Part
from baton.kvtransfer.send_queue import SendQueue
from baton.kvtransfer.staging import StagingBuffers
from baton.kvtransfer.transport import Bytes, Endpoint, Operation
from baton.protocol.ids import RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import Dialer, Session
from baton.protocol.records import Record, Scheme

MAX_BYTES_IN_FLIGHT = 16 << 20
MAX_MESSAGES_IN_FLIGHT = 64
"""Enough to keep any link busy, and little enough that whoever comes next waits milliseconds."""
MAX_BYTES_OFFERED = 32 << 20
"""The same where the receiver takes by itself, in half the time."""


@dataclass(frozen=True, slots=True)
class _Message:
    blocks: tuple[int, ...]
    tag: int
    scheme: Scheme
    cut: Cut | None
    part: Part | None
    num_bytes: int
    on_done: OnDone
    put_at: float


class Channel:
    """Records told before the session is up wait for it. Messages wait for their turn (see
    SendQueue); those that still wait when the channel is closed end with an error."""

    def __init__(self, mover: BlockMover | None = None) -> None:
        self._mover = mover
        self.session: Session | None = None
        self.endpoint: Endpoint | None = None
        self.dialer: Dialer | None = None
        self.sends: SendQueue[_Message] = SendQueue(MAX_BYTES_IN_FLIGHT, MAX_MESSAGES_IN_FLIGHT)
        """For its counts: what waits and what is in flight."""
        self._converter: Converter | None = None
        self._buffers: StagingBuffers | None = None
        self._block_bytes = mover.blocks.block_bytes if mover is not None else 0
        self._waiting: list[Record] = []
        self.on_phase: Callable[[str, float], None] | None = None
        """Told for each message: "queue" and "post", in seconds."""
        self.on_transfer: Callable[[int, float], None] | None = None
        """Told bytes and seconds whenever nothing is on its way any more: how long the link took
        for what it had without a pause. Not when a send failed meanwhile, or parts of
        blocks were sent."""
        self._busy_since: float | None = None
        self._busy_bytes = 0
        self._busy_well = True

    @property
    def block_sizes(self) -> tuple[int, int]:
        """Tokens in a block here and at the receiver; (1, 1) where they are the same."""
        converter = self._converter
        if converter is None or converter.source.block_size == converter.destination.block_size:
            return 1, 1
        return converter.source.block_size, converter.destination.block_size

    @property
    def converts(self) -> bool:
        """The receiver's blocks are laid out in another way than ours."""
        return self._converter is not None

    def tell(self, record: Record) -> None:
        if self.session is not None and self.session.is_open:
            self.session.send(record)
        else:
            self._waiting.append(record)

    def send_blocks(
        self,
        key: RequestKey,
        blocks: Sequence[int],
        tag: int,
        scheme: Scheme,
        on_done: OnDone,
        cut: Cut | None = None,
        part: Part | None = None,
    ) -> None:
        """Send these blocks as one message of a hand-off, or `part` of each; to a receiver of
        another layout, what `cut` takes of them (all of them, by default). `on_done`, never from
        within this call: they are not read any more; with an error, the message may not have gone
        out."""
        assert self.endpoint is not None, "no session, so no grant"
        if self._converter is not None and cut is None:
            cut = Cut(0, len(blocks))
        count = len(blocks) if cut is None else cut.num_blocks
        num_bytes = count * (self._block_bytes if part is None else part[1] - part[0])
        now = time.perf_counter()
        message = _Message(tuple(blocks), tag, scheme, cut, part, num_bytes, on_done, now)
        self.sends.put(key, num_bytes, message)
        self._post()

    def converted(self, blocks: Sequence[int], cut: Cut) -> Bytes:
        """What such a message holds, in new memory."""
        assert self._mover is not None, "channels that send blocks need a mover"
        assert self._converter is not None, "the layouts are the same"
        message: Bytes = np.empty(self._converter.message_bytes(cut), np.uint8)
        self._converter.gather(self._mover.blocks, blocks, cut, message)
        return message

    def send_empty(self, tag: int) -> None:
        """Answer a tag with zero bytes. Nothing happens when there was never a way to the peer."""
        if self.endpoint is not None:
            self.endpoint.post_send(b"", tag, _ignore)

    def opened(
        self,
        session: Session | None,
        endpoint: Endpoint,
        ours: KVLayout | None = None,
        theirs: KVLayout | None = None,
    ) -> None:
        """Blocks can go, and through the session records. Raises ValueError when our layout cannot
        be mapped onto theirs."""
        if ours is not None and theirs is not None and ours != theirs:
            self._converter = Converter(ours, theirs)
            self._block_bytes = theirs.block_bytes
        if self._mover is not None:
            self._buffers = self._mover.send_buffers(self._block_bytes, shared=endpoint.offers)
        if endpoint.offers:
            self.sends.max_bytes = MAX_BYTES_OFFERED
        self.session, self.endpoint = session, endpoint
        if session is not None:
            for record in self._waiting:
                session.send(record)
            self._waiting.clear()

    def close(self) -> None:
        """Answer the tags of messages that still wait with zero bytes, and end these with an
        error. Operations under way go on."""
        given_up = self.sends.clear()
        for message in given_up:
            self.send_empty(message.tag)
        if self.endpoint is not None:
            self.endpoint.close()
        error = ConnectionAbortedError("the channel was closed before the message was sent")
        for message in given_up:
            _report(message.on_done, error)

    def _post(self) -> None:
        """Hand the transport what there is room for."""
        assert self._mover is not None, "channels that send blocks need a mover"
        assert self.endpoint is not None
        assert self._buffers is not None
        while (message := self.sends.take()) is not None:
            taken_at = time.perf_counter()
            if self._busy_since is None:
                self._busy_since, self._busy_bytes, self._busy_well = taken_at, 0, True
            try:
                self._mover.send(
                    self.endpoint,
                    message.blocks,
                    message.tag,
                    message.scheme,
                    self._done(message),
                    buffers=self._buffers,
                    converter=self._converter,
                    cut=message.cut,
                    part=message.part,
                )
            except ValueError as error:
                self.send_empty(message.tag)
                _report(self._done(message), error)
            if self.on_phase is not None:
                self.on_phase("queue", taken_at - message.put_at)
                self.on_phase("post", time.perf_counter() - taken_at)

    def _idle(self) -> None:
        since, self._busy_since = self._busy_since, None
        if self._busy_well and since is not None and self.on_transfer is not None:
            self.on_transfer(self._busy_bytes, time.perf_counter() - since)

    def _done(self, message: _Message) -> OnDone:
        def done(error: Exception | None) -> None:
            self.sends.done(message.num_bytes)
            self._busy_bytes += message.num_bytes
            # Parts leave in bursts that a socket's buffer swallows, so they tell nothing.
            self._busy_well &= error is None and message.part is None
            if not (self.sends.in_flight_messages or self.sends.waiting_messages):
                self._idle()
            self._post()
            message.on_done(error)

        return done


def _report(on_done: OnDone, error: Exception) -> None:
    asyncio.get_running_loop().call_soon(on_done, error)


def _ignore(operation: Operation) -> None:
    """Zero-byte answers own nothing, so their end concerns nobody."""

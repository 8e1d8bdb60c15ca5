"""What lies between two simulated workers: a session for records, a channel for blocks.

    told records         arrive after LATENCY, in order, while the session lasts
    messages of blocks   arrive when the network has carried them (`network.py`)

What a stage sends within one instant goes as one transfer, which costs one event; what takes longer
than `PART` arrives in parts, for a hand-off that makes progress is not given up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from baton.bench.simulator.session import LATENCY
from baton.kvtransfer.conversion import Cut
from baton.kvtransfer.mover import OnDone, Part
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import Record, Scheme

if TYPE_CHECKING:
    from baton.bench.simulator.node import Node

PART = 0.25
"""Seconds, as between two sweeps, which look for progress."""


class PeerSession:
    """From a sender of KV to a receiver."""

    __slots__ = ("broken", "receiver", "sender")

    def __init__(self, sender: Node, receiver: Node) -> None:
        self.sender, self.receiver = sender, receiver
        self.broken = False

    def tell_receiver(self, record: Record) -> None:
        self.sender.after(LATENCY, self._forth, record)

    def tell_sender(self, record: Record) -> None:
        self.sender.after(LATENCY, self._back, record)

    def _forth(self, record: Record) -> None:
        if not (self.broken or self.receiver.dead):
            self.receiver.incoming.hear(self.sender.identity, record)

    def _back(self, record: Record) -> None:
        if not (self.broken or self.sender.dead):
            self.sender.outgoing.hear(self.receiver.identity, record)


class _Bulk:
    """Messages that leave together."""

    __slots__ = ("arrived", "messages", "num_bytes")

    def __init__(self) -> None:
        self.messages: list[tuple[int, OnDone | None]] = []
        self.num_bytes = 0
        self.arrived = 0


class Channel:
    """A sender's way to one life of a receiver."""

    def __init__(self, node: Node, peer: Identity) -> None:
        self.peer = peer
        self.session: PeerSession | None = None
        self.block_sizes = (1, 1)
        self.converts = False
        self.under_way: list[_Bulk] = []
        self._node = node
        self._bulk: _Bulk | None = None
        """Leaves at the end of this instant."""
        self._waiting: list[Record] = []
        self._block_bytes = 0

    def tell(self, record: Record) -> None:
        if self.session is None:
            self._waiting.append(record)
        else:
            self.session.tell_receiver(record)

    def send_blocks(
        self, key: RequestKey, blocks: Sequence[int], tag: int, scheme: Scheme, on_done: OnDone,
        cut: Cut | None = None, part: Part | None = None,
    ) -> None:
        assert part is None, "no grant here is cut by layers"
        number = len(blocks) if cut is None else cut.num_blocks
        self._put(tag, on_done, number * self._block_bytes)

    def send_empty(self, tag: int) -> None:
        if self.session is not None:
            self._put(tag, None, 0)

    def opened(self, session: PeerSession) -> None:
        ours, theirs = self._node.machine.layout, session.receiver.machine.layout
        if ours.block_size != theirs.block_size:
            self.block_sizes, self.converts = (ours.block_size, theirs.block_size), True
        self._block_bytes = theirs.block_bytes
        self.session = session
        for record in self._waiting:
            session.tell_receiver(record)
        self._waiting.clear()

    def fail(self) -> None:
        """The receiver is dead: nothing of what is under way will arrive."""
        given_up, self.under_way = self.under_way, []
        error = ConnectionResetError("the receiver is gone")
        for bulk in given_up:
            for _, on_done in bulk.messages[bulk.arrived :]:
                if on_done is not None:
                    on_done(error)

    def _put(self, tag: int, on_done: OnDone | None, num_bytes: int) -> None:
        bulk = self._bulk
        if bulk is None:
            bulk = self._bulk = _Bulk()
            self.under_way.append(bulk)
            self._node.after(0.0, self._leave)
        bulk.messages.append((tag, on_done))
        bulk.num_bytes += num_bytes

    def _leave(self) -> None:
        bulk, self._bulk = self._bulk, None
        node, session = self._node, self.session
        assert bulk is not None
        assert session is not None, "no session, so no grant"
        if node.dead or session.receiver.dead:
            return
        at = node.network.loop.at
        end, seconds = node.network.carry(node, session.receiver, bulk.num_bytes)
        number = len(bulk.messages)
        parts = 1 if seconds <= PART else min(number, math.ceil(seconds / PART))
        for part in range(1, parts):
            at(end - seconds * (1 - part / parts), self._arrive, bulk, number * part // parts)
        at(end, self._arrive, bulk, number, seconds)

    def _arrive(self, bulk: _Bulk, stop: int, seconds: float = 0.0) -> None:
        """The messages before `stop`; with the last of them, `seconds` is what all took."""
        session, node = self.session, self._node
        assert session is not None
        receiver = session.receiver
        if node.dead or receiver.dead:
            return  # what the survivor has of it ends when it notices
        messages = bulk.messages[bulk.arrived : stop]
        bulk.arrived = stop
        landings = receiver.landings
        for tag, _ in messages:
            landed = landings.pop(tag, None)
            if landed is not None:
                landed(None)
        if stop == len(bulk.messages):
            self.under_way.remove(bulk)
            if bulk.num_bytes and node.outgoing.on_transfer is not None:
                latency = node.link_to(self.peer.node_id).latency
                node.outgoing.on_transfer(self.peer, bulk.num_bytes, seconds + latency)
        for _, on_done in messages:
            if on_done is not None:
                on_done(None)

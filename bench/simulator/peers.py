"""The ways between simulated workers, in the place of `baton.kvtransfer.peers`: their stages and
hand-off machines are the real ones and know no difference.

    reach --hello, LATENCY--> accepted (the receiver may grant) --LATENCY--> opened
    told records             arrive after LATENCY, in order, while the session lasts
    messages of blocks       arrive when the network has carried them (`network.py`)
    a peer dies              its sessions are lost when that is noticed, sends to it end with errors

What a stage sends within one instant goes as one transfer, which costs one event; what takes longer
than `PART` arrives in parts, for a hand-off that makes progress is not given up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from baton.bench.simulator.machine import Machine
from baton.bench.simulator.network import Link, Network
from baton.bench.simulator.session import LATENCY
from baton.kvtransfer.conversion import Cut
from baton.kvtransfer.mover import OnDone, Part
from baton.kvtransfer.peers import ChannelEvents
from baton.kvtransfer.probe import rule
from baton.protocol.curves import LinkCurve
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import Record, Scheme, WorkerRef

REDIAL = 0.5
"""Seconds between attempts to reach who does not answer."""
PART = 0.25
"""Seconds, as between two sweeps, which look for progress."""
MESSAGE_TOKENS = 128
"""A message holds so many at least, also where a real one would be a single large block: each costs
the simulation some microseconds, and who waits for the rest of one waits for next to nothing."""


def scheme_of(layout: KVLayout) -> Scheme:
    """How a receiver of this layout wants its blocks."""
    by_rule = rule(layout.block_bytes, scatters=True).blocks_per_message
    return Scheme(max(by_rule, -(-MESSAGE_TOKENS // layout.block_size)))


class Node:
    """A worker, as its peers reach it."""

    def __init__(
        self, network: Network, identity: Identity, machine: Machine, random: Random
    ) -> None:
        self.network = network
        self.identity = identity
        self.machine = machine
        self.random = random
        self.dead = False
        self.started = False
        """It answers."""
        self.host = network.host_of(identity.node_id)
        self.link = network.link_of(self.host)
        self.own = Link()
        """To workers of the same host."""
        self.landings: dict[int, OnDone] = {}
        """Receives that are not over, by tag."""
        self.outgoing = Outgoing(self)
        self.incoming = Incoming(self)
        self.process = network.join(self)
        self._tags = count(1)

    @property
    def under_way(self) -> int:
        """Transfers to the living, and receives that wait."""
        return self.outgoing.under_way + len(self.landings)

    def link_to(self, node_id: str) -> LinkCurve:
        """What a transfer to this worker takes by itself."""
        same_host = self.network.host_of(node_id) == self.host
        return self.machine.link_to(same_host=same_host)

    def issue_tags(self, number: int) -> int:
        first = next(self._tags)
        self._tags = count(first + number)
        return first

    def receive(
        self, blocks: Sequence[int], tag: int, scheme: Scheme, on_done: OnDone
    ) -> Landing:
        """In the place of a `BlockMover`."""
        self.landings[tag] = on_done
        return Landing(self, tag)

    def die(self, noticed: float) -> None:
        self.dead = True
        self.network.leave(self, noticed)

    def peer_died(self, peer: Identity) -> None:
        """It is noticed now."""
        self.outgoing.lose(peer)
        self.incoming.lose(peer)

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        loop = self.network.loop
        loop.at(loop.time() + seconds, callback, *args)


class Landing:
    __slots__ = ("_node", "_tag")

    def __init__(self, node: Node, tag: int) -> None:
        self._node, self._tag = node, tag

    def detach(self) -> bool:
        return False

    def abandon(self) -> None:
        self._node.landings.pop(self._tag, None)


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


class Outgoing:
    """In the place of `OutgoingPeers`."""

    def __init__(self, node: Node) -> None:
        self.events = cast(ChannelEvents, None)
        """The sending stage sets it."""
        self.on_phase: Callable[[str, float], None] | None = None
        self.on_transfer: Callable[[Identity, int, float], None] | None = None
        self._node = node
        self._channels: dict[Identity, Channel] = {}
        self._refused_by: dict[str, Identity] = {}

    @property
    def under_way(self) -> int:
        return sum(len(channel.under_way) for channel in self._channels.values())

    def reach(self, peer: WorkerRef) -> Channel:
        channel = self._channels.get(peer.identity)
        if channel is None:
            channel = self._channels[peer.identity] = Channel(self._node, peer.identity)
            self._node.after(LATENCY, self._knock, channel)
        return channel

    def get(self, peer: Identity) -> Channel | None:
        return self._channels.get(peer)

    def was_refused(self, peer: Identity) -> bool:
        return self._refused_by.get(peer.node_id) == peer

    def drop(self, peer: Identity, reason: str) -> None:
        """Of one that lives: it hears of it, and what is under way arrives."""
        channel = self._channels.get(peer)
        if channel is None:
            return
        self.events.on_peer_lost(peer)
        self._channels.pop(peer, None)
        session = channel.session
        if session is not None and not session.broken:
            session.broken = True
            self._node.after(LATENCY, session.receiver.incoming.lost, session)

    def lose(self, peer: Identity) -> None:
        """It is dead. Who was not reached yet may come back, and is knocked at again."""
        channel = self._channels.get(peer)
        if channel is not None and channel.session is not None:
            channel.session.broken = True
            self.events.on_peer_lost(peer)
            self._channels.pop(peer, None)
            channel.fail()

    def drop_unreached(self, wanted: set[Identity]) -> None:
        for peer, channel in list(self._channels.items()):
            if channel.session is None and peer not in wanted:
                self.drop(peer, "unreached")

    def hear(self, peer: Identity, record: Record) -> None:
        self.events.on_record(peer, record)

    def opened(self, channel: Channel, session: PeerSession) -> None:
        wanted = self._channels.get(channel.peer) is channel
        if session.receiver.dead:
            self._node.after(REDIAL, self._knock, channel)
        elif wanted and not session.broken:
            channel.opened(session)
            self.events.on_session(channel.peer)
        elif not session.broken:  # it was given up meanwhile
            session.broken = True
            self._node.after(LATENCY, session.receiver.incoming.lost, session)

    def _knock(self, channel: Channel) -> None:
        node = self._node
        if node.dead or self._channels.get(channel.peer) is not channel:
            return
        receiver = node.network.life_of(channel.peer.node_id)
        if receiver is None:
            node.after(REDIAL, self._knock, channel)
        elif receiver.identity != channel.peer:
            node.after(LATENCY, self._refused, channel)
        else:
            receiver.incoming.accept(PeerSession(node, receiver), channel)

    def _refused(self, channel: Channel) -> None:
        if not self._node.dead and self._channels.get(channel.peer) is channel:
            self._refused_by[channel.peer.node_id] = channel.peer
            self.drop(channel.peer, "another life answers")


class Incoming:
    """In the place of `IncomingPeers`."""

    def __init__(self, node: Node) -> None:
        self.events = cast(ChannelEvents, None)
        """The receiving stage sets it."""
        self.probes: dict[str, Any] = {}
        self._node = node
        self._scheme = scheme_of(node.machine.layout)
        self._sessions: dict[Identity, PeerSession] = {}

    def inbox_of(self, peer: Identity) -> None:
        """One for all."""

    def scheme_from(self, peer: Identity) -> Scheme:
        return self._scheme

    def is_connected(self, peer: Identity) -> bool:
        return peer in self._sessions

    def hello_of(self, peer: Identity) -> Any:
        session = self._sessions.get(peer)
        return None if session is None else SimpleNamespace(process=session.sender.process)

    def tell(self, peer: Identity, record: Record) -> None:
        session = self._sessions.get(peer)
        if session is not None:
            session.tell_sender(record)

    def accept(self, session: PeerSession, channel: Channel) -> None:
        """A hello has come; the sender hears of that before it hears of any grant."""
        sender = session.sender
        sender.after(LATENCY, self._answer, session, channel)
        self._sessions[sender.identity] = session
        self.events.on_session(sender.identity)

    def hear(self, peer: Identity, record: Record) -> None:
        self.events.on_record(peer, record)

    def lose(self, peer: Identity) -> None:
        session = self._sessions.get(peer)
        if session is not None:
            session.broken = True
            self.lost(session)

    def lost(self, session: PeerSession) -> None:
        peer = session.sender.identity
        if not self._node.dead and self._sessions.get(peer) is session:
            del self._sessions[peer]
            self.events.on_peer_lost(peer)

    @staticmethod
    def _answer(session: PeerSession, channel: Channel) -> None:
        if not session.sender.dead:
            session.sender.outgoing.opened(channel, session)

"""The ways from and to other simulated workers, in the place of `baton.kvtransfer.peers`: stages
and hand-off machines are the real ones and know no difference.

    reach --hello, LATENCY--> accepted (the receiver may grant) --LATENCY--> opened
    a peer dies: its sessions are lost when that is noticed, and sends to it end with errors
    another life answers: refused; nobody answers: dialled again
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from baton.bench.simulator.channel import Channel, PeerSession
from baton.bench.simulator.session import LATENCY
from baton.kvtransfer.peers import ChannelEvents
from baton.kvtransfer.probe import rule
from baton.protocol.ids import Identity
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import Record, Scheme, WorkerRef

if TYPE_CHECKING:
    from baton.bench.simulator.node import Node

REDIAL = 0.5
"""Seconds between attempts to reach who does not answer."""
MESSAGE_TOKENS = 128
"""A message holds so many at least, also where a real one would be a single large block: each costs
the simulation some microseconds, and who waits for the rest of one waits for next to nothing."""


def scheme_of(layout: KVLayout) -> Scheme:
    """How a receiver of this layout wants its blocks."""
    by_rule = rule(layout.block_bytes, scatters=True).blocks_per_message
    return Scheme(max(by_rule, -(-MESSAGE_TOKENS // layout.block_size)))


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

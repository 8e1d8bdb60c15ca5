"""The hand-off channels of one worker: whom it sends KV to, and who sends KV to it.

The sender dials the receiver's peer socket; one session per direction. A channel belongs to one
life (identity) of the receiver: when its session is lost or another life answers, the channel is
dropped and everything under way on it fails; the next hand-off dials anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from baton.kvtransfer.channel import Channel
from baton.kvtransfer.mover import BlockMover
from baton.kvtransfer.probe import ProbeReceiver, ProbeResult, answer_probe, rule
from baton.kvtransfer.transport import Inbox, Transport
from baton.protocol.errors import ConfigError
from baton.protocol.ids import Identity, ProcessRef
from baton.protocol.kvlayout import why_unmappable
from baton.protocol.link import Dialer, Listener, Session, is_gone
from baton.protocol.records import DIRECT, PeerHello, Probe, Record, Scheme, WorkerRef
from baton.protocol.versions import version_of_kind

log = logging.getLogger(__name__)

_SCHEMES = version_of_kind(Probe)
"""The protocol version since which there are schemes."""


class ChannelEvents(Protocol):
    """What a stage hears of its channels."""

    def on_record(self, peer: Identity, record: Record) -> None: ...

    def on_session(self, peer: Identity) -> None: ...

    def on_peer_lost(self, peer: Identity) -> None: ...


class OutgoingPeers:
    """Channels on which this worker is the sender. `hello` gives our PeerHello; `retire` closes a
    dialer in the background."""

    def __init__(
        self,
        identity: Identity,
        hello: Callable[[], PeerHello],
        transport: Transport,
        retire: Callable[[Dialer], None],
        mover: BlockMover | None = None,
    ) -> None:
        self._mover = mover
        self._identity = identity
        self._hello = hello
        self._transport = transport
        self._retire = retire
        self._channels: dict[Identity, Channel] = {}
        self._refused_by: dict[str, Identity] = {}
        """The last life of each node that was not to be had, by node id."""
        self.events: ChannelEvents | None = None
        self.on_phase: Callable[[str, float], None] | None = None
        self.on_transfer: Callable[[Identity, int, float], None] | None = None
        """See Channel; of channels that are made after they are set."""

    def reach(self, peer: WorkerRef) -> Channel:
        """The channel to this life of the peer, dialled if there is none yet."""
        channel = self._channels.get(peer.identity)
        if channel is None:
            channel = self._channels[peer.identity] = Channel(self._mover)
            channel.on_phase = self.on_phase
            if self.on_transfer is not None:
                channel.on_transfer = partial(self.on_transfer, peer.identity)
            channel.dialer = Dialer(
                self._identity,
                peer.peer_address,
                lambda: msgspec.structs.replace(self._hello(), receiver=peer.identity),
                lambda session: self._opened(peer.identity, session),
                lambda reason: self._refused(peer.identity, reason),
            )
            channel.dialer.start()
        return channel

    def get(self, peer: Identity) -> Channel | None:
        return self._channels.get(peer)

    def was_refused(self, peer: Identity) -> bool:
        """Whoever is at its address refused to talk, or is another life: to dial again is vain."""
        return self._refused_by.get(peer.node_id) == peer

    def drop(self, peer: Identity, reason: str) -> None:
        """Give the channel up, if there is one; the next `reach` dials anew."""
        if peer in self._channels:
            self._lost(peer, reason)

    def drop_unreached(self, wanted: set[Identity]) -> None:
        """Stop dialling peers that never answered, unless something still waits for them."""
        for peer, channel in list(self._channels.items()):
            if channel.session is None and peer not in wanted:
                self._drop(peer)

    def _opened(self, expected: Identity, session: Session) -> None:
        hello = session.peer_hello
        channel = self._channels.get(expected)
        if channel is None:
            session.close("channel dropped")
            return
        if not isinstance(hello, PeerHello) or hello.identity != expected:
            log.warning("%s answers as another life than %s", hello, expected)
            session.close("not the worker that was asked for")
            self._refused_by[expected.node_id] = expected
            self._drop(expected)
            return
        ours = self._hello()
        same_host = hello.host == ours.host
        try:
            endpoint = self._transport.connect(hello.transport_address, same_host=same_host)
        except ConnectionError as error:
            log.error("no %s way to %s: %s", self._transport.name, expected.node_id, error)
            session.close(f"no {self._transport.name} way: {error}")
            self._drop(expected)
            return
        log.info(
            "hand-off channel to %s: %s over %s",
            expected.node_id,
            self._transport.name,
            endpoint.carriers,
        )
        session.on_lost = lambda reason: self._lost(expected, reason)
        channel.opened(session, endpoint, ours.layout, hello.layout)
        if self.events is not None:
            self.events.on_session(expected)
        session.on_record = lambda record: self._on_record(expected, channel, record)

    def _on_record(self, peer: Identity, channel: Channel, record: Record) -> None:
        if not isinstance(record, Probe):
            if self.events is not None:
                self.events.on_record(peer, record)
            return
        assert channel.endpoint is not None
        try:
            answer_probe(record, channel.endpoint, self._transport)
        except ValueError as error:
            log.error("%s asks for what makes no sense: %s", peer.node_id, error)

    def _lost(self, peer: Identity, reason: str) -> None:
        log.warning("hand-off channel to %s lost: %s", peer.node_id, reason)
        self._drop(peer)

    def _refused(self, peer: Identity, reason: str) -> None:
        log.error("%s refuses our hand-off channel: %s", peer.node_id, reason)
        self._refused_by[peer.node_id] = peer
        self._drop(peer)

    def _drop(self, peer: Identity) -> None:
        channel = self._channels.get(peer)
        if channel is None:
            return
        if self.events is not None:
            # The stage answers the open tags with zero bytes: the endpoint may still carry them.
            self.events.on_peer_lost(peer)
        self._channels.pop(peer, None)
        channel.close()
        if channel.dialer is not None:
            self._retire(channel.dialer)

    async def close(self) -> None:
        for channel in list(self._channels.values()):
            if channel.dialer is not None:
                await channel.dialer.close()
        self._channels.clear()


class IncomingPeers:
    """Channels on which this worker is the receiver. Refuses, by name, a sender whose KV cannot
    be mapped onto ours. With a mover, each new session begins with a probe of the schemes; until
    it is over, and where there is none, the last probe of that worker counts, or the rule."""

    def __init__(
        self,
        identity: Identity,
        hello: Callable[[], PeerHello],
        mover: BlockMover | None = None,
        issue_tags: Callable[[int], int] | None = None,
    ) -> None:
        self._hello = hello
        self._mover = mover
        self._issue_tags = issue_tags
        self._processes: dict[Identity, ProcessRef | None] = {}
        """Of the senders that have an inbox."""
        self.probes: dict[str, ProbeResult] = {}
        """The last result by the sender's node id."""
        self._sessions: dict[Identity, Session] = {}
        self._listener = Listener(identity, self._accept)
        self.events: ChannelEvents | None = None

    async def bind(self, address: str) -> str:
        return await self._listener.bind(address)

    def hello_of(self, peer: Identity) -> PeerHello | None:
        """What the peer said of itself, while there is a session with it."""
        session = self._sessions.get(peer)
        hello = session.peer_hello if session is not None else None
        return hello if isinstance(hello, PeerHello) else None

    def scheme_from(self, peer: Identity) -> Scheme:
        """How this sender's blocks are to become messages in the next grant to it."""
        session = self._sessions.get(peer)
        if self._mover is None or session is None or session.version < _SCHEMES:
            return DIRECT
        inbox = self.inbox_of(peer)
        pulls = inbox is not None and inbox.pulls
        result = self.probes.get(peer.node_id)
        if result is not None and (pulls or not result.chosen.pulled):
            return result.chosen
        blocks = self._mover.blocks
        theirs = self.hello_of(peer)
        converts = theirs is not None and theirs.layout != self._hello().layout
        return rule(
            blocks.block_bytes, scatters=blocks.scatters, pulls=pulls, converts=converts
        )

    def inbox_of(self, peer: Identity) -> Inbox | None:
        """Where this sender's messages arrive; None: where all do."""
        if self._mover is None or peer not in self._processes:
            return None
        return self._mover.transport.inbox(peer)

    def is_connected(self, peer: Identity) -> bool:
        return peer in self._sessions

    def tell(self, peer: Identity, record: Record) -> None:
        """Dropped when there is no session: whatever it was about is failing already."""
        session = self._sessions.get(peer)
        if session is not None and session.is_open:
            session.send(record)

    def _accept(self, session: Session) -> PeerHello:
        hello = session.peer_hello
        ours = self._hello()
        if not isinstance(hello, PeerHello):
            raise ConfigError("the hand-off channel takes workers only")
        for name in ("fingerprint", "transport"):
            theirs, mine = getattr(hello, name), getattr(ours, name)
            if theirs != mine:
                raise ConfigError(f"{name} differs: sender has {theirs}, receiver has {mine}")
        why = why_unmappable(hello.layout, ours.layout)
        if why is None and hello.layout != ours.layout and session.version < _SCHEMES:
            why = f"a sender of protocol version {session.version} cannot convert"
        if why is not None:
            raise ConfigError(f"KV layouts cannot be mapped: {why}")
        peer = hello.identity
        self._sessions[peer] = session
        if self._mover is not None:
            self._forget_dead(peer)
            self._processes[peer] = hello.process
            # On one host it may copy from the sender's memory, if that lets itself be found.
            near = hello.transport_address if hello.host == ours.host else None
            address = self._mover.transport.inbox(peer, near).address
            ours = msgspec.structs.replace(ours, transport_address=address)
        session.on_lost = lambda reason: self._lost(peer, session, reason)
        events = self.events
        if events is not None:
            session.on_record = lambda record: events.on_record(peer, record)
            events.on_session(peer)
        self._probe(peer, session, hello, ours)
        return ours

    def _forget_dead(self, newcomer: Identity) -> None:
        """Give up the inboxes of lives that are over."""
        for peer, process in list(self._processes.items()):
            if peer in self._sessions or peer == newcomer:
                continue  # the same life again: what it was granted may still come
            if peer.node_id == newcomer.node_id or (process is not None and is_gone(process)):
                del self._processes[peer]
                if self._mover is not None:
                    self._mover.transport.forget(peer)

    def _probe(
        self, peer: Identity, session: Session, sender: PeerHello, ours: PeerHello
    ) -> None:
        mover, issue_tags = self._mover, self._issue_tags
        if mover is None or issue_tags is None or session.version < _SCHEMES:
            return
        if not mover.blocks.scatters or sender.layout != ours.layout:
            # To a device the rule stands; a converting sender always stages.
            self.probes.pop(peer.node_id, None)
            return

        def keep(result: ProbeResult) -> None:
            self.probes[peer.node_id] = result
            rates = ", ".join(f"{_name(s)} {rate / 1e9:.1f} GB/s" for s, rate in result.rates)
            # Staging pays where memory cannot be scattered; here it copies twice for nothing.
            say = log.warning if result.chosen.staged else log.info
            say("KV from %s: %s (%s)", peer.node_id, _name(result.chosen), rates)

        probe = ProbeReceiver(mover.transport, issue_tags, mover.blocks.block_bytes, keep,
                              self.inbox_of(peer))
        session.send(probe.start(same_host=sender.host == ours.host))

    def _lost(self, peer: Identity, session: Session, reason: str) -> None:
        if self._sessions.get(peer) is not session:
            return
        log.warning("hand-off channel from %s lost: %s", peer.node_id, reason)
        del self._sessions[peer]
        if self.events is not None:
            self.events.on_peer_lost(peer)

    async def close(self) -> None:
        await self._listener.close()



def _name(scheme: Scheme) -> str:
    kind = "staged" if scheme.staged else "pulled" if scheme.pulled else "direct"
    return f"{kind}, {scheme.blocks_per_message} blocks a message"

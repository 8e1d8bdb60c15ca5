"""Sessions between lives of workers that break, delay and repeat when a test says so.

Within one session records keep their order, as the control session promises; what was under way
when it breaks is lost, and each side hears of it in its own time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from storm_wire import converted_rows, row_bytes

from baton.kvtransfer.conversion import Cut
from baton.kvtransfer.mover import OnDone, Part
from baton.protocol.ids import Identity, ProcessRef, RequestKey
from baton.protocol.records import Record, Scheme, WorkerRef

if TYPE_CHECKING:
    from storm_worker import Life


class StormSession:
    """From a sender of KV to a receiver."""

    def __init__(self, sender: Life, receiver: Life) -> None:
        self.sender, self.receiver = sender, receiver
        self.forth: deque[Record] = deque()
        self.back: deque[Record] = deque()
        self.old: list[tuple[bool, Record]] = []
        """Delivered before, to be repeated: (forth, record)."""
        self.broken = False

    def deliver(self, forth: bool) -> None:
        queue = self.forth if forth else self.back
        record = queue.popleft()
        self.old.append((forth, record))
        self.hand_over(forth, record)

    def hand_over(self, forth: bool, record: Record) -> None:
        if forth:
            self.receiver.worker.decode.on_record(self.sender.identity, record)
        else:
            self.sender.worker.prefill.on_record(self.receiver.identity, record)

    def tell(self, forth: bool, record: Record) -> None:
        if not self.broken:
            (self.forth if forth else self.back).append(record)

    def break_off(self) -> None:
        self.broken = True
        self.forth.clear()
        self.back.clear()


class StormChannel:
    """A sender's way to a receiver."""

    def __init__(self, life: Life, peer: WorkerRef) -> None:
        self.life, self.peer = life, peer
        self.session: StormSession | None = None
        self.block_sizes = (1, 1)
        self.converts = False
        self.waiting: list[Record] = []

    def tell(self, record: Record) -> None:
        if self.session is not None:
            self.session.tell(True, record)
        else:
            self.waiting.append(record)

    def send_blocks(
        self, key: RequestKey, blocks: Sequence[int], tag: int, scheme: Scheme, on_done: OnDone,
        cut: Cut | None = None, part: Part | None = None,
    ) -> None:
        assert self.session is not None, "no session, so no grant"
        if part is not None:
            self.life.observer.outcomes.append(("message", self.life.when()))
        self.life.wire.post_send(self.life, self.session.receiver, tag, blocks, on_done, cut, part)

    def converted(self, blocks: Sequence[int], cut: Cut) -> bytes:
        assert self.session is not None
        rows = converted_rows(self.life, self.session.receiver, blocks, cut)
        return b"".join(row_bytes(row) for row in rows)

    def send_empty(self, tag: int) -> None:
        if self.session is not None:
            self.life.wire.post_send(self.life, self.session.receiver, tag, (), None)


class StormOutgoing:
    """Stands for OutgoingPeers."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.channels: dict[Identity, StormChannel] = {}
        self.events: Any = None
        self.on_phase: Any = None
        self.on_transfer: Any = None

    def reach(self, peer: WorkerRef) -> StormChannel:
        channel = self.channels.get(peer.identity)
        if channel is None:
            channel = self.channels[peer.identity] = StormChannel(self.life, peer)
        return channel

    def get(self, peer: Identity) -> StormChannel | None:
        return self.channels.get(peer)

    def drop(self, peer: Identity, reason: str) -> None:
        channel = self.channels.get(peer)
        if channel is None:
            return
        self.events.on_peer_lost(peer)
        self.channels.pop(peer, None)
        if channel.session is not None:
            channel.session.break_off()

    def was_refused(self, peer: Identity) -> bool:
        return False

    def drop_unreached(self, wanted: set[Identity]) -> None:
        for peer, channel in list(self.channels.items()):
            if channel.session is None and peer not in wanted:
                self.drop(peer, "unreached")

    def opened(self, channel: StormChannel, session: StormSession) -> None:
        channel.session = session
        sizes = self.life.block_size, session.receiver.block_size
        if sizes[0] != sizes[1]:
            channel.block_sizes, channel.converts = sizes, True
        for record in channel.waiting:
            session.tell(True, record)
        channel.waiting.clear()
        self.events.on_session(channel.peer.identity)


class StormIncoming:
    """Stands for IncomingPeers."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.sessions: dict[Identity, StormSession] = {}
        self.events: Any = None

    def inbox_of(self, peer: Identity) -> None:
        """One for all."""

    def scheme_from(self, peer: Identity) -> Scheme:
        return self.life.scheme

    def is_connected(self, peer: Identity) -> bool:
        return peer in self.sessions

    def hello_of(self, peer: Identity) -> Any:
        session = self.sessions.get(peer)
        if session is None:
            return None
        return SimpleNamespace(process=ProcessRef(session.sender.number, 0, ""))

    def tell(self, peer: Identity, record: Record) -> None:
        session = self.sessions.get(peer)
        if session is not None:
            session.tell(False, record)

    def opened(self, session: StormSession) -> None:
        """It may replace one whose loss was not heard of yet."""
        peer = session.sender.identity
        self.sessions[peer] = session
        if session.sender.block_size == self.life.block_size:
            # As an earlier seal would have said; there are too few hand-offs to wait for one.
            self.events._wishes[peer] = session.sender.worker.prefill._overlaps.layers_per_message(
                session.receiver.identity)
        self.events.on_session(peer)

    def lost(self, session: StormSession) -> None:
        peer = session.sender.identity
        if self.sessions.get(peer) is session:
            del self.sessions[peer]
            self.events.on_peer_lost(peer)

"""The sending stage: prompts in, first tokens and KV blocks out. Runs on the I/O thread.

The engine computes; this stage turns its progress into sends, so that finished blocks travel
while the next chunk is computed, and a completed last send is sealed at once, whatever the
engine is doing. One `Sender` machine per hand-off decides; the stage only carries out.

| kind | begins with | the engine is asked to | its blocks go to |
|---|---|---|---|
| prefill | Prefill | Start(hold) | the decode worker of the request |
| loan | Lend | PinCached | the worker that computes the rest of the prompt |
| migration | Migrate | Park | the next decode worker of the request |

Who holds the blocks: the engine, until the first token; then the lease, which `Release` ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import msgspec

from baton.engine.commands import (
    Command,
    LayersDone,
    Park,
    PinCached,
    Progress,
    Refused,
    Release,
    Start,
    Unquarantine,
    loan_key,
)
from baton.engine.outlet import Outlet
from baton.kvtransfer.checksum import ChecksumQueue
from baton.kvtransfer.conversion import Cut
from baton.kvtransfer.handoff.actions import (
    Action,
    Checksum,
    Ended,
    EndQuarantine,
    PostSend,
    ReleaseBlocks,
    Tell,
)
from baton.kvtransfer.handoff.messages import BlockSizes, layer_bytes
from baton.kvtransfer.handoff.sender import Sender, SenderState, answer_unknown
from baton.kvtransfer.peers import OutgoingPeers
from baton.prefill.debts import Debts
from baton.prefill.overlap import Overlaps
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import (
    Ack,
    Declined,
    Grant,
    Lend,
    Migrate,
    Parked,
    Prefill,
    Record,
    Revoke,
    WorkerRef,
)

log = logging.getLogger(__name__)

LEND_SECONDS = 5.0
"""A loan saves time or is given up, so its blocks are not kept for long."""


class SendObserver(Protocol):
    def send_ended(self, kind: str, outcome: str, blocks: int, stamps: dict[str, float]) -> None:
        """`stamps`: see Sender, and "ended"."""

    def message_phase(self, phase: str, seconds: float) -> None:
        """See Channel.on_phase."""

    def sent_early(self, messages: int) -> None:
        """They left before the step that computed them was over."""


class Kind(Enum):
    PREFILL = "prefill"
    LOAN = "loan"
    MIGRATION = "migration"


@dataclass(slots=True)
class _Handoff:
    machine: Sender
    peer: Identity
    kind: Kind = Kind.PREFILL
    taken_over: bool = False
    """The request has come back here, as its next decode worker: its end is not ours to tell."""


class PrefillStage:
    """`lease`: seconds that blocks are kept for a receiver that makes no progress. `checksums`:
    seal with checksums, computed there."""

    def __init__(
        self,
        *,
        identity: Identity,
        submit: Callable[[Command], None],
        peers: OutgoingPeers,
        outlet: Outlet,
        observer: SendObserver,
        clock: Callable[[], float],
        overlaps: Overlaps,
        lease: float = 30.0,
        checksums: ChecksumQueue | None = None,
    ) -> None:
        self._identity = identity
        self._submit = submit
        self._peers = peers
        self._outlet = outlet
        self._observer = observer
        self._clock = clock
        self._lease = lease
        self._checksums = checksums
        self._overlaps = overlaps
        self._handoffs: dict[tuple[RequestKey, Identity], _Handoff] = {}
        self._started: dict[RequestKey, _Handoff] = {}
        """Those that own, or will own, the blocks of this key in the engine."""
        self._refs: dict[Identity, WorkerRef] = {}
        self._debts = Debts()
        peers.events = self
        peers.on_phase = self._on_phase
        peers.on_transfer = overlaps.transferred

    @property
    def active(self) -> int:
        """Hand-offs that still own something."""
        return sum(h.machine.state is not SenderState.DONE for h in self._handoffs.values())

    @property
    def live(self) -> int:
        """Those of them that may still succeed."""
        live = (SenderState.OPEN, SenderState.SEALED)
        return sum(h.machine.state in live for h in self._handoffs.values())

    @property
    def needs_sweep(self) -> bool:
        return bool(self._handoffs or self._debts)

    def in_flight(self) -> dict[str, int]:
        """Messages under way, by receiver."""
        counts: dict[str, int] = {}
        for handoff in self._handoffs.values():
            node = handoff.peer.node_id
            counts[node] = counts.get(node, 0) + handoff.machine.in_flight
        return counts

    def backlog(self) -> dict[str, tuple[int, int]]:
        """Messages and bytes that wait for their turn, by receiver."""
        waiting: dict[str, tuple[int, int]] = {}
        for peer in self._refs:
            channel = self._peers.get(peer)
            if channel is not None:
                queue = channel.sends
                waiting[peer.node_id] = (queue.waiting_messages, queue.waiting_bytes)
        return waiting

    # -- from the router ---------------------------------------------------------------------

    def on_prefill(self, record: Prefill) -> Start | None:
        """What the engine is to be told, once the prompt's cached part is here; None when the
        record has come before."""
        request = record.request
        if not self._begin(
            request.key, record.decode, Kind.PREFILL, request.deadlines.handoff
        ):
            return None
        self._overlaps.began(request.key, record.decode.identity)
        return Start(request, hold=True)

    def is_started(self, key: RequestKey) -> bool:
        """There is a hand-off that will release the blocks of this key in the engine."""
        return key in self._started

    def on_lend(self, record: Lend) -> None:
        request = record.request
        key = loan_key(request.key)
        lease = min(request.deadlines.handoff, LEND_SECONDS)
        if self._begin(key, record.borrower, Kind.LOAN, lease):
            self._submit(PinCached(msgspec.structs.replace(request, key=key)))

    def on_migrate(self, record: Migrate) -> None:
        if self._begin(record.key, record.decode, Kind.MIGRATION, self._lease):
            self._submit(Park(record.key))

    def on_cancel(self, key: RequestKey) -> None:
        for each in (key, loan_key(key)):
            handoff = self._started.get(each)
            if handoff is not None:
                self._do(handoff, handoff.machine.on_cancel())

    def on_taken_over(self, key: RequestKey) -> None:
        """The request comes back here before the end of its hand-off was heard of."""
        handoff = self._started.get(key)
        if handoff is not None:
            handoff.taken_over = True

    # -- from the engine ---------------------------------------------------------------------

    def is_for_router(self, progress: Progress) -> bool:
        """False for the answers to PinCached and Park, which tell nothing new, and for what
        nobody waits for any more."""
        handoff = self._started.get(progress.key)
        return handoff is not None and handoff.kind is Kind.PREFILL

    def on_progress(self, progress: Progress) -> None:
        handoff = self._started.get(progress.key)
        if handoff is None:
            return
        machine = handoff.machine
        if handoff.kind is Kind.MIGRATION and machine.state is SenderState.OPEN:
            self._outlet.tell(progress.key, Parked(key=progress.key, parked=True))
        self._overlaps.progress(progress)
        if progress.prefill_done and self._can_cut(handoff.peer):
            machine.wish = self._overlaps.layers_per_message(handoff.peer)
        self._do(
            handoff,
            machine.on_progress(
                progress.blocks,
                progress.ready_blocks,
                done=progress.prefill_done,
                tokens=progress.tokens,
                finished=progress.finish_reason is not None,
                now=self._clock(),
            ),
        )

    def on_layers(self, event: LayersDone) -> None:
        """In the midst of a step, once they are computed."""
        now = self._clock()
        for each in event.sequences:
            handoff = self._started.get(each.key)
            if handoff is not None and handoff.kind is Kind.PREFILL:
                actions = handoff.machine.on_layers(each.blocks, each.begun, event.layers, now)
                self._observer.sent_early(sum(isinstance(one, PostSend) for one in actions))
                self._do(handoff, actions)

    def on_refused(self, event: Refused) -> bool:
        """True when it answers a PinCached or Park of ours."""
        handoff = self._started.get(event.key)
        if handoff is None or handoff.kind is Kind.PREFILL:
            return False
        if handoff.kind is Kind.MIGRATION:
            self._outlet.tell(event.key, Parked(key=event.key, parked=False))
            handoff.taken_over = True  # it goes on here
        self._do(handoff, handoff.machine.on_nothing(event.reason))
        return True

    # -- from the receiver (ChannelEvents) ---------------------------------------------------

    def on_session(self, peer: Identity) -> None:
        """The receiver speaks first, with a Grant, or with what it still awaits."""
        self._debts.settle(peer)

    def on_record(self, peer: Identity, record: Record) -> None:
        channel = self._peers.get(peer)
        if channel is None or channel.session is None:
            return  # of a way that was given up; the next session makes up for it
        match record:
            case Grant():
                handoff = self._handoff(record.key, peer, self._lease)
                self._granted(handoff, record)
            case Revoke():
                known = self._handoffs.get((record.key, peer))
                if known is not None:
                    self._do(known, known.machine.on_revoke(record))
                else:
                    for action in answer_unknown(record):
                        self._send_empty(peer, action.tag)
            case Ack():
                known = self._handoffs.get((record.key, peer))
                if known is not None:
                    self._do(known, known.machine.on_ack(record.operation))
            case _:
                log.error("%s may not send %s", peer.node_id, type(record).__name__)

    def on_peer_lost(self, peer: Identity) -> None:
        channel, ref = self._peers.get(peer), self._refs.get(peer)
        if ref is not None and channel is not None and channel.session is not None:
            self._debts.owe(ref, self._clock())
        for handoff in self._to(peer):
            self._do(handoff, handoff.machine.on_peer_lost())

    # -- time --------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Expire leases, dial again where tags may wait for an answer, and forget what ended.
        Called a few times a second."""
        now = self._clock()
        for handoff in list(self._handoffs.values()):
            machine = handoff.machine
            self._do(handoff, machine.on_time(now))
            if now >= machine.deadline and machine.state is SenderState.DONE:
                self._forget(handoff)
        for receiver in self._debts.due(now, self._peers.was_refused):
            self._peers.reach(receiver)
        wanted = {handoff.peer for handoff in self._handoffs.values()} | self._debts.receivers
        self._peers.drop_unreached(wanted)
        for peer in self._refs.keys() - wanted:
            if self._peers.get(peer) is None:
                del self._refs[peer]
                self._overlaps.forget(peer)

    # -- inside ------------------------------------------------------------------------------

    def _on_phase(self, phase: str, seconds: float) -> None:
        self._observer.message_phase(phase, seconds)
        if phase == "post":
            self._overlaps.posted(seconds)

    def _granted(self, handoff: _Handoff, grant: Grant) -> None:
        channel = self._peers.get(handoff.peer)
        assert channel is not None, "a grant came without a session"
        if grant.scheme.layers_per_message and not self._can_cut(handoff.peer):
            # What it awaits now is answered over the next session.
            self._peers.drop(handoff.peer, "a grant that is cut by layers, which cannot be")
            return
        sizes = BlockSizes(*channel.block_sizes)
        self._do(handoff, handoff.machine.on_grant(grant, self._clock(), sizes))

    def _can_cut(self, peer: Identity) -> bool:
        channel = self._peers.get(peer)
        return self._overlaps.can_cut and channel is not None and not channel.converts

    def _to(self, peer: Identity) -> list[_Handoff]:
        return [handoff for handoff in self._handoffs.values() if handoff.peer == peer]

    def _begin(self, key: RequestKey, receiver: WorkerRef, kind: Kind, lease: float) -> bool:
        """False when it has begun before."""
        if key in self._started:
            return False
        handoff = self._handoff(key, receiver.identity, lease)
        if handoff.machine.state is SenderState.DONE:
            # It lingers. A Revoke that still comes is answered by its successor too.
            self._forget(handoff)
            handoff = self._handoff(key, receiver.identity, lease)
        handoff.kind = kind
        self._started[key] = handoff
        self._refs[receiver.identity] = receiver
        self._peers.reach(receiver)
        self._do(handoff, handoff.machine.on_start(self._clock()))
        return True

    def _handoff(self, key: RequestKey, peer: Identity, lease: float) -> _Handoff:
        handoff = self._handoffs.get((key, peer))
        if handoff is None:
            machine = Sender(
                key,
                self._identity.epoch,
                now=self._clock(),
                lease=lease,
                checksums=self._checksums is not None,
                num_layers=self._overlaps.layout.num_layers,
            )
            handoff = self._handoffs[key, peer] = _Handoff(machine, peer)
        return handoff

    def _do(self, handoff: _Handoff, actions: list[Action]) -> None:
        machine = handoff.machine
        for action in actions:
            match action:
                case PostSend():
                    self._post(handoff, action)
                case Checksum():
                    self._sum(handoff, action)
                case Tell():
                    channel = self._peers.get(handoff.peer)
                    if channel is not None:
                        channel.tell(action.record)
                case ReleaseBlocks():
                    self._submit(Release(machine.key, action.quarantine))
                case EndQuarantine():
                    self._submit(Unquarantine(action.blocks))
                case Ended():
                    self._ended(handoff, action)
        if machine.state is SenderState.DONE and not machine.lingers:
            self._forget(handoff)

    def _forget(self, handoff: _Handoff) -> None:
        place = (handoff.machine.key, handoff.peer)
        if self._handoffs.get(place) is handoff:
            del self._handoffs[place]

    def _post(self, handoff: _Handoff, action: PostSend) -> None:
        if not action.blocks:
            self._send_empty(handoff.peer, action.tag)
            return
        channel = self._peers.get(handoff.peer)
        assert channel is not None, "a grant came without a session"

        def done(error: Exception | None) -> None:
            if error is not None and self._peers.get(handoff.peer) is channel:
                # The way is broken; over the next one the receiver names what it still awaits.
                self._peers.drop(handoff.peer, f"a send failed: {error}")
            machine = handoff.machine
            self._do(handoff, machine.on_send_done(action.tag, error, self._clock()))

        cut = Cut(action.skip, action.num_blocks) if channel.converts else None
        layers = action.layers
        part = None if layers is None else layer_bytes(self._overlaps.layout, layers)
        channel.send_blocks(
            handoff.machine.key, action.blocks, action.tag, action.scheme, done, cut, part
        )

    def _send_empty(self, peer: Identity, tag: int) -> None:
        channel = self._peers.get(peer)
        if channel is not None:
            channel.send_empty(tag)

    def _sum(self, handoff: _Handoff, action: Checksum) -> None:
        assert self._checksums is not None
        channel = self._peers.get(handoff.peer)
        assert channel is not None, "a message was sent on it"

        def done(sums: bytes) -> None:
            machine = handoff.machine
            self._do(handoff, machine.on_checksums(action.tag, sums, self._clock()))

        if channel.converts:
            cut = Cut(action.skip, action.num_blocks)
            self._checksums.compute_parts(
                lambda: channel.converted(action.blocks, cut), action.num_blocks, done
            )
        else:
            self._checksums.compute(action.blocks, done)

    def _ended(self, handoff: _Handoff, ended: Ended) -> None:
        machine = handoff.machine
        if self._started.get(machine.key) is handoff:
            del self._started[machine.key]
            self._overlaps.ended(machine.key, handoff.peer, machine, ended.outcome)
        stamps = {**machine.stamps, "ended": self._clock()}
        self._observer.send_ended(handoff.kind.value, ended.outcome, machine.sent_blocks, stamps)
        if handoff.kind is not Kind.LOAN and not handoff.taken_over:
            if ended.reroute:
                self._outlet.tell(machine.key, Declined(key=machine.key, reason=ended.outcome))
            self._outlet.forget(machine.key)

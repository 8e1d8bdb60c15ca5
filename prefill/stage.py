"""The prefill stage: prompts in, first tokens and KV blocks out. Runs on the I/O thread.

The engine computes; this stage turns its progress into sends, so that finished blocks travel
while the next chunk is computed, and a completed last send is sealed at once, whatever the
engine is doing. One `Sender` machine per request decides; the stage only carries out.

Who holds the blocks: the engine, until the first token; then the lease, which `Release` ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from baton.engine.commands import Command, Progress, Release, Start
from baton.engine.outlet import Outlet
from baton.kvtransfer.handoff.actions import (
    Action,
    Ended,
    PostSend,
    ReleaseBlocks,
    Tell,
)
from baton.kvtransfer.handoff.sender import Sender, SenderState, answer_unknown
from baton.kvtransfer.peers import OutgoingPeers
from baton.kvtransfer.transport import Buffer, Endpoint, Operation
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import Ack, Declined, Grant, Prefill, Record, Revoke

log = logging.getLogger(__name__)


class SendObserver(Protocol):
    def send_ended(self, outcome: str, blocks: int, seconds: float | None) -> None: ...


@dataclass(slots=True)
class _Handoff:
    machine: Sender
    peer: Identity


class PrefillStage:
    """`lease`: seconds that blocks are kept for a receiver that makes no progress."""

    def __init__(
        self,
        *,
        identity: Identity,
        submit: Callable[[Command], None],
        block_buffer: Callable[[int], Buffer],
        peers: OutgoingPeers,
        outlet: Outlet,
        observer: SendObserver,
        clock: Callable[[], float],
        lease: float = 30.0,
    ) -> None:
        self._identity = identity
        self._submit = submit
        self._block_buffer = block_buffer
        self._peers = peers
        self._outlet = outlet
        self._observer = observer
        self._clock = clock
        self._lease = lease
        self._handoffs: dict[RequestKey, _Handoff] = {}
        peers.events = self

    @property
    def active(self) -> int:
        """Hand-offs that still own something."""
        return sum(h.machine.state is not SenderState.DONE for h in self._handoffs.values())

    @property
    def needs_sweep(self) -> bool:
        return bool(self._handoffs)

    # -- from the router ---------------------------------------------------------------------

    def on_prefill(self, record: Prefill) -> None:
        key = record.request.key
        handoff = self._handoff(key, record.decode.identity, record.request.deadlines.handoff)
        if handoff.machine.started:
            return
        self._peers.reach(record.decode)
        self._submit(Start(record.request, hold=True))
        self._do(handoff, handoff.machine.on_start(self._clock()))

    def on_cancel(self, key: RequestKey) -> bool:
        """True when the attempt was one of ours."""
        handoff = self._handoffs.get(key)
        if handoff is None:
            return False
        self._do(handoff, handoff.machine.on_cancel())
        return True

    # -- from the engine ---------------------------------------------------------------------

    def on_progress(self, progress: Progress) -> None:
        handoff = self._handoffs.get(progress.key)
        if handoff is None:
            return
        self._do(
            handoff,
            handoff.machine.on_progress(
                progress.blocks,
                progress.ready_blocks,
                done=progress.prefill_done,
                tokens=progress.tokens,
                finished=progress.finish_reason is not None,
                now=self._clock(),
            ),
        )

    # -- from the receiver (ChannelEvents) ---------------------------------------------------

    def on_session(self, peer: Identity) -> None:
        """Nothing to do: the receiver speaks first, with a Grant."""

    def on_record(self, peer: Identity, record: Record) -> None:
        match record:
            case Grant():
                handoff = self._handoff(record.key, peer, self._lease)
                self._do(handoff, handoff.machine.on_grant(record, self._clock()))
            case Revoke() if record.key in self._handoffs:
                handoff = self._handoffs[record.key]
                self._do(handoff, handoff.machine.on_revoke(record))
            case Ack() if record.key in self._handoffs:
                handoff = self._handoffs[record.key]
                self._do(handoff, handoff.machine.on_ack(record.operation))
            case Revoke():
                for action in answer_unknown(record):
                    self._post_empty(peer, action.tag)
            case Ack():
                log.debug("late %s from %s", record, peer.node_id)
            case _:
                log.error("%s may not send %s", peer.node_id, type(record).__name__)

    def on_peer_lost(self, peer: Identity) -> None:
        for handoff in [h for h in self._handoffs.values() if h.peer == peer]:
            self._do(handoff, handoff.machine.on_peer_lost())

    # -- time --------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Expire leases, and forget what ended. Called a few times a second."""
        now = self._clock()
        for key, handoff in list(self._handoffs.items()):
            self._do(handoff, handoff.machine.on_time(now))
            if handoff.machine.state is SenderState.DONE and now >= handoff.machine.deadline:
                self._handoffs.pop(key, None)
        self._peers.drop_unreached({handoff.peer for handoff in self._handoffs.values()})

    # -- inside ------------------------------------------------------------------------------

    def _handoff(self, key: RequestKey, peer: Identity, lease: float) -> _Handoff:
        handoff = self._handoffs.get(key)
        if handoff is None:
            machine = Sender(key, self._identity.epoch, now=self._clock(), lease=lease)
            handoff = self._handoffs[key] = _Handoff(machine, peer)
        return handoff

    def _do(self, handoff: _Handoff, actions: list[Action]) -> None:
        key = handoff.machine.key
        for action in actions:
            match action:
                case PostSend():
                    self._post(handoff, action)
                case Tell():
                    channel = self._peers.get(handoff.peer)
                    if channel is not None:
                        channel.tell(action.record)
                case ReleaseBlocks():
                    self._submit(Release(key))
                case Ended():
                    self._ended(handoff, action)
        if handoff.machine.state is SenderState.DONE and not handoff.machine.needs_answer:
            self._handoffs.pop(key, None)

    def _post(self, handoff: _Handoff, action: PostSend) -> None:
        if action.block is None:
            self._post_empty(handoff.peer, action.tag)
            return
        endpoint = self._endpoint(handoff.peer)
        assert endpoint is not None, "a grant came without a session"
        endpoint.post_send(
            self._block_buffer(action.block),
            action.tag,
            lambda operation: self._do(handoff, handoff.machine.on_send_done(operation.error)),
        )

    def _post_empty(self, peer: Identity, tag: int) -> None:
        endpoint = self._endpoint(peer)
        if endpoint is not None:
            endpoint.post_send(b"", tag, _ignore)

    def _endpoint(self, peer: Identity) -> Endpoint | None:
        channel = self._peers.get(peer)
        return None if channel is None else channel.endpoint

    def _ended(self, handoff: _Handoff, ended: Ended) -> None:
        machine = handoff.machine
        seconds = None if machine.granted_at is None else self._clock() - machine.granted_at
        self._observer.send_ended(ended.outcome, machine.sent_blocks, seconds)
        if ended.reroute:
            self._outlet.tell(machine.key, Declined(key=machine.key, reason=ended.outcome))
        self._outlet.forget(machine.key)


def _ignore(operation: Operation) -> None:
    """Zero-byte answers own nothing, so their end concerns nobody."""

"""The decode stage: reservations, admission, and requests that run here from the start. Runs on
the I/O thread.

Who holds the blocks: the reservation, until sealed and complete; then the engine's running
sequence. One `Receiver` machine per hand-off decides; the stage only carries out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Protocol

from baton.engine.commands import (
    AdmitReserved,
    Command,
    Refused,
    Release,
    ReserveBlocks,
    Reserved,
    Start,
    Unquarantine,
)
from baton.engine.outlet import Outlet
from baton.kvtransfer.handoff.actions import (
    Action,
    Admit,
    Ended,
    EndQuarantine,
    PostReceive,
    ReleaseBlocks,
    Tell,
)
from baton.kvtransfer.handoff.receiver import Receiver, ReceiverState
from baton.kvtransfer.peers import IncomingPeers
from baton.kvtransfer.transport import Buffer, Operation, Transport
from baton.protocol.ids import Identity, ProcessRef, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import is_gone
from baton.protocol.records import (
    Aborted,
    Admitted,
    Declined,
    Generate,
    Record,
    Reserve,
    Sealed,
)

log = logging.getLogger(__name__)

_TOKEN_BYTES = 4


class ReceiveObserver(Protocol):
    def receive_ended(self, outcome: str, blocks: int, phases: dict[str, float]) -> None: ...


class DecodeStage:
    """`issue_tags(n)` draws n consecutive tags that were never used before."""

    def __init__(
        self,
        *,
        layout: KVLayout,
        submit: Callable[[Command], None],
        block_buffer: Callable[[int], Buffer],
        peers: IncomingPeers,
        transport: Transport,
        issue_tags: Callable[[int], int],
        outlet: Outlet,
        observer: ReceiveObserver,
        clock: Callable[[], float],
    ) -> None:
        self._layout = layout
        self._submit = submit
        self._block_buffer = block_buffer
        self._peers = peers
        self._transport = transport
        self._issue_tags = issue_tags
        self._outlet = outlet
        self._observer = observer
        self._clock = clock
        self._operations = count(1)
        self._receivers: dict[RequestKey, Receiver] = {}
        self._processes: dict[Identity, ProcessRef] = {}
        """Of the senders on this host: while one lives, it may write into what it was granted."""
        peers.events = self

    @property
    def active(self) -> int:
        """Hand-offs that still own something, quarantine included."""
        return len(self._receivers)

    @property
    def needs_sweep(self) -> bool:
        return bool(self._receivers)

    # -- from the router ---------------------------------------------------------------------

    def on_generate(self, record: Generate) -> None:
        self._submit(Start(record.request, hold=False))

    def on_reserve(self, record: Reserve) -> None:
        request = record.request
        if request.key in self._receivers:
            return
        num_tokens = (len(request.prompt) + len(request.accepted)) // _TOKEN_BYTES
        receiver = Receiver(
            request.key,
            record.prefill.identity,
            operation=next(self._operations),
            num_blocks=self._layout.blocks_for(num_tokens),
            issue_tags=self._issue_tags,
            now=self._clock(),
            lease=request.deadlines.handoff,
        )
        self._receivers[request.key] = receiver
        self._submit(ReserveBlocks(request))
        if self._peers.is_connected(receiver.sender):
            self._do(receiver, receiver.on_session(self._clock()))

    def on_cancel(self, key: RequestKey) -> bool:
        """True when the attempt was still in hand-off here."""
        receiver = self._receivers.get(key)
        if receiver is None:
            return False
        self._do(receiver, receiver.on_cancel())
        return True

    # -- from the engine ---------------------------------------------------------------------

    def on_reserved(self, event: Reserved) -> None:
        receiver = self._receivers.get(event.key)
        if receiver is not None:
            self._do(
                receiver, receiver.on_reserved(event.blocks, event.cached_blocks, self._clock())
            )
        # Without a receiver the Release that ended it is already behind this event.

    def on_refused(self, event: Refused) -> None:
        receiver = self._receivers.get(event.key)
        if receiver is not None:
            self._do(receiver, receiver.on_refused(event.reason))

    # -- from the sender (ChannelEvents) -----------------------------------------------------

    def on_session(self, peer: Identity) -> None:
        hello = self._peers.hello_of(peer)
        if hello is not None and hello.process is not None:
            self._processes[peer] = hello.process
        for receiver in self._from(peer):
            self._do(receiver, receiver.on_session(self._clock()))

    def on_record(self, peer: Identity, record: Record) -> None:
        if not isinstance(record, Sealed | Aborted):
            log.error("%s may not send %s", peer.node_id, type(record).__name__)
            return
        receiver = self._receivers.get(record.key)
        if receiver is None or receiver.sender != peer:
            log.debug("late %s from %s", record, peer.node_id)
            return
        if isinstance(record, Sealed):
            self._do(receiver, receiver.on_sealed(record, self._clock()))
        else:
            self._do(receiver, receiver.on_aborted(record.operation, record.reason))

    def on_peer_lost(self, peer: Identity) -> None:
        for receiver in self._from(peer):
            self._do(receiver, receiver.on_peer_lost())

    # -- time --------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Expire reservations, and end the quarantine of peers whose process is gone."""
        now = self._clock()
        for receiver in list(self._receivers.values()):
            self._do(receiver, receiver.on_time(now))
        draining = {
            r.sender for r in self._receivers.values() if r.state is ReceiverState.DRAINING
        }
        for peer in draining:
            process = self._processes.get(peer)
            if not self._peers.is_connected(peer) and process is not None and is_gone(process):
                for receiver in self._from(peer):
                    self._do(receiver, receiver.on_peer_gone())

    # -- inside ------------------------------------------------------------------------------

    def _from(self, peer: Identity) -> list[Receiver]:
        return [r for r in self._receivers.values() if r.sender == peer]

    def _do(self, receiver: Receiver, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case PostReceive():
                    self._post(receiver, action)
                case Tell():
                    self._peers.tell(receiver.sender, action.record)
                case Admit():
                    self._submit(AdmitReserved(receiver.key, action.tokens))
                    self._admitted(receiver)
                case ReleaseBlocks():
                    self._submit(Release(receiver.key, action.quarantine))
                case EndQuarantine():
                    self._submit(Unquarantine(action.blocks))
                case Ended():
                    self._ended(receiver, action)
        if receiver.state in (ReceiverState.DONE, ReceiverState.ADMITTED):
            self._receivers.pop(receiver.key, None)

    def _post(self, receiver: Receiver, action: PostReceive) -> None:
        def done(operation: Operation) -> None:
            self._do(
                receiver, receiver.on_receive_done(action.block, operation.error, self._clock())
            )

        self._transport.post_receive(self._block_buffer(action.block), action.tag, done)

    def _admitted(self, receiver: Receiver) -> None:
        self._outlet.tell(
            receiver.key,
            Admitted(
                key=receiver.key,
                transferred_bytes=receiver.received_blocks * self._layout.block_bytes,
                cached_blocks=receiver.cached_blocks,
                phases=self._phases(receiver),
            ),
        )

    def _phases(self, receiver: Receiver) -> dict[str, float]:
        """Seconds: until the grant, until the seal, until all blocks were here."""
        now = self._clock()
        granted = receiver.granted_at if receiver.granted_at is not None else now
        sealed = receiver.sealed_at if receiver.sealed_at is not None else now
        return {
            "reserve": granted - receiver.created_at,
            "transfer": sealed - granted,
            "seal": now - sealed,
        }

    def _ended(self, receiver: Receiver, ended: Ended) -> None:
        self._observer.receive_ended(
            ended.outcome, receiver.received_blocks, self._phases(receiver)
        )
        if ended.outcome == "admitted":
            return  # the engine goes on with it, and the router hears of its end from there
        if ended.reroute:
            self._outlet.tell(receiver.key, Declined(key=receiver.key, reason=ended.outcome))
        self._outlet.forget(receiver.key)

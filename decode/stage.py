"""The receiving stage: reservations and admission. Runs on the I/O thread.

Who holds the blocks: the reservation, until sealed and complete; then the engine's running
sequence or, of a loan, its prefix cache. One `Receiver` machine per hand-off decides; the stage
only carries out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import msgspec

from baton.engine.commands import (
    AdmitReserved,
    Adopt,
    Command,
    Refused,
    Release,
    ReserveBlocks,
    Reserved,
    Unquarantine,
    loan_key,
)
from baton.engine.outlet import Outlet
from baton.kvtransfer.checksum import ChecksumQueue
from baton.kvtransfer.handoff.actions import (
    Abandon,
    Action,
    Admit,
    AdoptBlocks,
    Detach,
    Ended,
    EndQuarantine,
    PostReceive,
    ReleaseBlocks,
    Tell,
    Verify,
)
from baton.kvtransfer.handoff.messages import can_cut, cut_by_layers, layer_bytes
from baton.kvtransfer.handoff.receiver import Receiver, ReceiverState
from baton.kvtransfer.mover import BlockMover, Landing
from baton.kvtransfer.peers import IncomingPeers
from baton.kvtransfer.probe import ProbeResult
from baton.protocol.ids import Identity, ProcessRef, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import is_gone
from baton.protocol.records import (
    Aborted,
    Admitted,
    Declined,
    Record,
    Request,
    Reserve,
    Sealed,
    WorkerRef,
)

log = logging.getLogger(__name__)

_TOKEN_BYTES = 4

LOAN_PATIENCE = 1.0
"""Seconds without progress, after which a borrower computes the blocks itself."""

LAST_BYTES_SECONDS = 1.0
"""What a process sent before it died may still lie in shared memory, for our own transport to
write into the blocks."""


class ReceiveObserver(Protocol):
    def receive_ended(
        self, kind: str, outcome: str, blocks: int, phases: dict[str, float]
    ) -> None: ...


@dataclass(slots=True, eq=False)
class _Receiving:
    machine: Receiver
    landings: dict[int, Landing] = field(default_factory=dict)
    then: Callable[[], None] | None = None
    """Of a loan: what waits for its end, however it ends."""


class DecodeStage:
    """`issue_tags(n)` draws n consecutive tags that were never used before."""

    def __init__(
        self,
        *,
        layout: KVLayout,
        submit: Callable[[Command], None],
        mover: BlockMover,
        peers: IncomingPeers,
        issue_tags: Callable[[int], int],
        outlet: Outlet,
        observer: ReceiveObserver,
        clock: Callable[[], float],
        checksums: ChecksumQueue,
        process_gone: Callable[[ProcessRef], bool] = is_gone,
        loan_patience: float = LOAN_PATIENCE,
    ) -> None:
        self._layout = layout
        self._submit = submit
        self._mover = mover
        self._peers = peers
        self._issue_tags = issue_tags
        self._outlet = outlet
        self._observer = observer
        self._clock = clock
        self._checksums = checksums
        self._process_gone = process_gone
        self._loan_patience = loan_patience
        self._operations = count(1)
        self._live: dict[RequestKey, _Receiving] = {}
        self._draining: list[_Receiving] = []
        self._processes: dict[Identity, ProcessRef] = {}
        """Of the senders on this host: while one lives, it may write into what it was granted."""
        self._gone_since: dict[Identity, float] = {}
        self._wishes: dict[Identity, int] = {}
        """How senders want their grants cut by layers, as their last seals said."""
        peers.events = self

    @property
    def active(self) -> int:
        """Hand-offs that still own something, quarantine included."""
        return len(self._live) + len(self._draining)

    @property
    def live(self) -> int:
        """Those of them that may still succeed."""
        return len(self._live)

    @property
    def needs_sweep(self) -> bool:
        return self.active > 0

    @property
    def block_bytes(self) -> int:
        return self._layout.block_bytes

    @property
    def probes(self) -> Mapping[str, ProbeResult]:
        """How blocks come from each sender, by node id."""
        return self._peers.probes

    def in_flight(self) -> dict[str, int]:
        """Messages awaited, by sender."""
        counts: dict[str, int] = {}
        for receiving in (*self._live.values(), *self._draining):
            node = receiving.machine.sender.node_id
            counts[node] = counts.get(node, 0) + receiving.machine.in_flight
        return counts

    # -- from the router ---------------------------------------------------------------------

    def on_reserve(self, record: Reserve) -> None:
        request = record.request
        self._begin(
            request,
            record.prefill.identity,
            self._layout.blocks_for(_num_tokens(request)),
            lease=request.deadlines.handoff,
        )

    def borrow(self, request: Request, lender: WorkerRef, then: Callable[[], None]) -> None:
        """Fetch what the lender's cache has of this request's full blocks into ours, and call
        `then` when that is done or given up; never after a cancel of the request. The engine and
        the lender know it by the request's `loan_key`."""
        full_blocks = _num_tokens(request) // self._layout.block_size
        if not full_blocks:
            then()
            return
        loan = msgspec.structs.replace(request, key=loan_key(request.key))
        self._begin(loan, lender.identity, full_blocks, lease=self._loan_patience, then=then)

    def on_cancel(self, key: RequestKey) -> None:
        loan = self._live.get(loan_key(key))
        if loan is not None:
            loan.then = None
        for receiving in (self._live.get(key), loan):
            if receiving is not None:
                self._do(receiving, receiving.machine.on_cancel())

    # -- from the engine ---------------------------------------------------------------------

    def on_reserved(self, event: Reserved) -> None:
        receiving = self._live.get(event.key)
        if receiving is not None:
            actions = receiving.machine.on_reserved(
                event.blocks, event.cached_blocks, self._clock()
            )
            self._do(receiving, actions)
        # Without a receiver the Release that ended it is already behind this event.

    def on_refused(self, event: Refused) -> None:
        receiving = self._live.get(event.key)
        if receiving is None:
            return
        if event.reason == "running":  # its Reserve came twice, and nothing is to be said of it
            del self._live[event.key]
            return
        self._do(receiving, receiving.machine.on_refused(event.reason))

    # -- from the sender (ChannelEvents) -----------------------------------------------------

    def on_session(self, peer: Identity) -> None:
        hello = self._peers.hello_of(peer)
        if hello is not None and hello.process is not None:
            self._processes[peer] = hello.process
        for receiving in self._from(peer):
            self._met(receiving)

    def on_record(self, peer: Identity, record: Record) -> None:
        if not isinstance(record, Sealed | Aborted):
            log.error("%s may not send %s", peer.node_id, type(record).__name__)
            return
        receiving = self._live.get(record.key)
        if receiving is None or receiving.machine.sender != peer:
            log.debug("late %s from %s", record, peer.node_id)
            return
        machine = receiving.machine
        if isinstance(record, Sealed):
            self._wishes[peer] = record.layers_per_message
            self._do(receiving, machine.on_sealed(record, self._clock()))
        else:
            self._do(receiving, machine.on_aborted(record.operation, record.reason))

    def on_peer_lost(self, peer: Identity) -> None:
        self._wishes.pop(peer, None)
        for receiving in self._from(peer):
            self._do(receiving, receiving.machine.on_peer_lost())

    # -- time --------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Expire reservations, and end the quarantine of peers whose process is gone."""
        now = self._clock()
        for receiving in list(self._live.values()):
            self._do(receiving, receiving.machine.on_time(now))
        for peer in {receiving.machine.sender for receiving in self._draining}:
            if self._is_gone(peer, now):
                for receiving in self._from(peer):
                    self._do(receiving, receiving.machine.on_peer_gone())
        senders = {r.machine.sender for r in (*self._live.values(), *self._draining)}
        for peer in self._processes.keys() - senders:
            if not self._peers.is_connected(peer):
                del self._processes[peer]
                self._gone_since.pop(peer, None)

    def _is_gone(self, peer: Identity, now: float) -> bool:
        """Its process has been dead for long enough that what it left in shared memory was read."""
        process = self._processes.get(peer)
        if process is None or self._peers.is_connected(peer) or not self._process_gone(process):
            return False
        return now >= self._gone_since.setdefault(peer, now) + LAST_BYTES_SECONDS

    # -- inside ------------------------------------------------------------------------------

    def _from(self, peer: Identity) -> list[_Receiving]:
        everything = (*self._live.values(), *self._draining)
        return [receiving for receiving in everything if receiving.machine.sender == peer]

    def _begin(
        self,
        request: Request,
        sender: Identity,
        num_blocks: int,
        *,
        lease: float,
        then: Callable[[], None] | None = None,
    ) -> None:
        if request.key in self._live:
            return
        machine = Receiver(
            request.key,
            sender,
            operation=next(self._operations),
            num_blocks=num_blocks,
            issue_tags=self._issue_tags,
            now=self._clock(),
            lease=lease,
            loan=then is not None,
            num_layers=self._layout.num_layers,
        )
        receiving = self._live[request.key] = _Receiving(machine, then=then)
        self._submit(ReserveBlocks(request, loan=then is not None))
        if self._peers.is_connected(sender):
            self._met(receiving)

    def _met(self, receiving: _Receiving) -> None:
        machine = receiving.machine
        scheme = self._peers.scheme_from(machine.sender)
        wish = self._wishes.get(machine.sender, 0)
        if wish and not machine.loan and can_cut(self._layout):
            scheme = cut_by_layers(scheme, wish, self._layout)
        self._do(receiving, machine.on_session(scheme, self._clock()))

    def _do(self, receiving: _Receiving, actions: list[Action]) -> None:
        machine = receiving.machine
        if not machine.is_live and self._live.get(machine.key) is receiving:
            del self._live[machine.key]
            if machine.state is ReceiverState.DRAINING:
                self._draining.append(receiving)
        elif machine.state is ReceiverState.DONE and receiving in self._draining:
            self._draining.remove(receiving)
        for action in actions:
            match action:
                case PostReceive():
                    self._post(receiving, action)
                case Tell():
                    self._peers.tell(machine.sender, action.record)
                case Verify():
                    self._verify(receiving, action)
                case Admit():
                    self._submit(AdmitReserved(machine.key, action.tokens))
                    self._admitted(machine)
                case AdoptBlocks():
                    self._submit(Adopt(machine.key, action.num_blocks))
                case Detach():
                    if not receiving.landings[action.tag].detach():
                        raise AssertionError("a staged receive that cannot be detached")
                case Abandon():
                    receiving.landings[action.tag].abandon()
                case ReleaseBlocks():
                    self._submit(Release(machine.key, action.quarantine))
                case EndQuarantine():
                    self._submit(Unquarantine(action.blocks))
                case Ended():
                    self._ended(receiving, action)

    def _post(self, receiving: _Receiving, action: PostReceive) -> None:
        def done(error: Exception | None) -> None:
            receiving.landings.pop(action.tag, None)
            actions = receiving.machine.on_receive_done(action.tag, error, self._clock())
            self._do(receiving, actions)

        # Of its own, so that a sender that dies takes no other's messages with it.
        inbox = self._peers.inbox_of(receiving.machine.sender)
        place: dict[str, Any] = {} if inbox is None else {"inbox": inbox}
        if action.layers is not None:
            place["part"] = layer_bytes(self._layout, action.layers)
        receiving.landings[action.tag] = self._mover.receive(
            action.blocks, action.tag, action.scheme, done, **place
        )

    def _verify(self, receiving: _Receiving, action: Verify) -> None:
        def done(bad: tuple[int, ...]) -> None:
            if bad:
                machine = receiving.machine
                log.error("%d blocks of %s arrived corrupt from %s", len(bad), machine.key,
                          machine.sender.node_id)
            self._do(receiving, receiving.machine.on_verified(bad))

        self._checksums.verify(action.blocks, action.checksums, done)

    def _admitted(self, machine: Receiver) -> None:
        self._outlet.tell(
            machine.key,
            Admitted(
                key=machine.key,
                transferred_bytes=machine.received_blocks * self._layout.block_bytes,
                cached_blocks=machine.cached_blocks,
                phases=_phases(machine, self._clock()),
            ),
        )

    def _ended(self, receiving: _Receiving, ended: Ended) -> None:
        machine = receiving.machine
        self._observer.receive_ended(
            "loan" if machine.loan else "request",
            ended.outcome,
            machine.received_blocks,
            _phases(machine, self._clock()),
        )
        if machine.loan:
            if receiving.then is not None:
                receiving.then()
            return
        if ended.outcome == "admitted":
            return  # the engine goes on with it, and the router hears of its end from there
        if ended.reroute:
            self._outlet.tell(machine.key, Declined(key=machine.key, reason=ended.outcome))
        self._outlet.forget(machine.key)


def _num_tokens(request: Request) -> int:
    return (len(request.prompt) + len(request.accepted)) // _TOKEN_BYTES


def _phases(machine: Receiver, now: float) -> dict[str, float]:
    """Seconds: from the request to the grant, from there to the last block, from there to the
    seal, and from when both were here to the engine."""
    stamps = machine.stamps
    granted = stamps.get("granted", now)
    arrived = stamps.get("arrived", granted)
    sealed = stamps.get("sealed", now)
    return {
        "handoff_reserve": granted - stamps["created"],
        "handoff_wire": arrived - granted,
        "handoff_seal": max(0.0, sealed - arrived),
        "handoff_admit": max(0.0, now - max(sealed, arrived)),
    }

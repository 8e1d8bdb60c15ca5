"""The hand-offs of one simulated worker, either direction: what it owes and what it waits for.

    prefill, loan, park --blocks ready, granted--> sent --sealed--> acknowledged: released
    reserve, borrow     --granted--> waiting --sealed--> admitted, or adopted by the cache

What comes to nothing is released on both ends; of a request the router is told, which routes it
again, of a loan nobody, and the prompt is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Protocol

import msgspec

from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.known_curves import KnownCurves
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.network import Kind, Network, Transfer
from baton.bench.simulator.session import LATENCY
from baton.deploy.worker.curves import CurveKeeper
from baton.engine.commands import (
    AdmitReserved,
    Adopt,
    Command,
    Park,
    PinCached,
    Progress,
    Refused,
    Release,
    ReserveBlocks,
    Reserved,
    Start,
    loan_key,
)
from baton.engine.outlet import Outlet
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import (
    Admitted,
    Declined,
    Lend,
    Migrate,
    Parked,
    Prefill,
    Request,
    Reserve,
    WorkerRef,
)

LOAN_PATIENCE = 1.0
"""Seconds after which a borrower computes the blocks itself."""


class Engine(Protocol):
    def submit(self, command: Command) -> None: ...


class Handoffs:
    """An `End` of the network."""

    def __init__(
        self,
        identity: Identity,
        machine: Machine,
        loop: SimulatedLoop,
        network: Network,
        engine: Engine,
        outlet: Outlet,
        curves: CurveKeeper | KnownCurves,
        random: Random,
    ) -> None:
        self.identity = identity
        self._machine = machine
        self._loop = loop
        self._network = network
        self._engine = engine
        self._outlet = outlet
        self._curves = curves
        self._random = random
        self._sending: dict[RequestKey, Transfer] = {}
        self._receiving: dict[RequestKey, Transfer] = {}
        self._borrowers: dict[RequestKey, Callable[[], None]] = {}
        """By loan key: what waits for the loan."""
        self._egress_free = 0.0
        """When what leaves already will have left."""
        self.ingress_free = 0.0
        network.join(self)

    @property
    def active(self) -> int:
        return len(self._sending) + len(self._receiving)

    def is_for_router(self, progress: Progress) -> bool:
        """False for the answers to PinCached and Park, and for what nobody waits for."""
        transfer = self._sending.get(progress.key)
        return transfer is not None and transfer.kind is Kind.PREFILL

    # -- from the router ---------------------------------------------------------------------

    def on_prefill(self, record: Prefill) -> Start:
        self._send(record.request.key, record.decode.identity, Kind.PREFILL)
        return Start(record.request, hold=True)

    def on_lend(self, record: Lend) -> None:
        request = _as_loan(record.request)
        self._send(request.key, record.borrower.identity, Kind.LOAN)
        self._engine.submit(PinCached(request))

    def on_migrate(self, record: Migrate) -> None:
        self._send(record.key, record.decode.identity, Kind.MIGRATION)
        self._engine.submit(Park(record.key))

    def on_reserve(self, record: Reserve) -> None:
        self._receive(record.request, record.prefill.identity)

    def borrow(self, request: Request, lender: WorkerRef, then: Callable[[], None]) -> None:
        """Fetch what the lender's cache has, and call `then` when that is done or given up."""
        loan = _as_loan(request)
        self._borrowers[loan.key] = then
        transfer = self._receive(loan, lender.identity)
        self._loop.at(self._loop.time() + LOAN_PATIENCE, self._give_up, transfer)

    def on_cancel(self, key: RequestKey) -> None:
        self._borrowers.pop(loan_key(key), None)
        for each in (key, loan_key(key)):
            for transfers in (self._sending, self._receiving):
                transfer = transfers.pop(each, None)
                if transfer is not None:
                    self._network.end(transfer)
                    self._engine.submit(Release(each))

    # -- KV goes out -------------------------------------------------------------------------

    def on_progress(self, event: Progress) -> None:
        """Of a sequence that is held, or will be."""
        transfer = self._sending.get(event.key)
        if transfer is None:
            return
        if transfer.kind is Kind.MIGRATION:
            self._outlet.tell(event.key, Parked(key=event.key, parked=True))
        elif event.finish_reason is not None:  # nothing is to go on from it
            self._end_sending(transfer, release=True)
            self._outlet.forget(event.key)
            return
        transfer.ready = event.ready_blocks
        transfer.done = event.prefill_done
        transfer.tokens = event.tokens
        self._send_blocks(transfer)

    def on_granted(self, transfer: Transfer) -> None:
        if self._sending.get(transfer.key) is transfer:
            self._send_blocks(transfer)

    def on_acknowledged(self, transfer: Transfer) -> None:
        if self._sending.get(transfer.key) is transfer:
            del self._sending[transfer.key]
            self._engine.submit(Release(transfer.key))
            if transfer.kind is not Kind.LOAN:
                self._outlet.forget(transfer.key)

    def _send(self, key: RequestKey, receiver: Identity, kind: Kind) -> None:
        transfer = self._network.transfer(key, self.identity, receiver)
        transfer.kind = kind
        self._sending[key] = transfer

    def _send_blocks(self, transfer: Transfer) -> None:
        """All that is ready and granted leaves, behind what leaves already."""
        receiver = self._network.end_of(transfer.receiver)
        if transfer.cached is None or transfer.over or transfer.sealed or receiver is None:
            return
        now, link = self._loop.time(), self._machine.link
        first = max(transfer.sent, transfer.cached)
        if transfer.ready > first:
            num_bytes = (transfer.ready - first) * self._machine.layout.block_bytes
            seconds = link.byte * num_bytes
            if link.spread:
                seconds *= math.exp(self._random.gauss(0.0, link.spread))
            begin = max(now, self._egress_free)
            self._egress_free = begin + seconds
            # Both ends carry one at a time; who waits at the receiver's keeps nobody at its own.
            receiver.ingress_free = max(begin, receiver.ingress_free) + seconds
            transfer.arrives = receiver.ingress_free + link.latency
            transfer.sent = transfer.ready
            self._curves.transfer(transfer.receiver.node_id, num_bytes, seconds + link.latency)
        if transfer.done:
            transfer.sealed = True
            self._loop.at(max(now + LATENCY, transfer.arrives), receiver.on_sealed, transfer)

    # -- KV comes in -------------------------------------------------------------------------

    def on_reserved(self, event: Reserved) -> None:
        transfer = self._receiving.get(event.key)
        if transfer is None:
            return
        transfer.cached = event.cached_blocks
        transfer.granted_at = self._loop.time()
        sender = self._network.end_of(transfer.sender)
        if sender is None:
            self.on_broken(transfer)
        else:
            self._loop.at(self._loop.time() + LATENCY, sender.on_granted, transfer)

    def on_sealed(self, transfer: Transfer) -> None:
        key = transfer.key
        if self._receiving.get(key) is not transfer:
            return
        del self._receiving[key]
        self._network.end(transfer)
        sender = self._network.end_of(transfer.sender)
        if sender is not None:
            self._loop.at(self._loop.time() + LATENCY, sender.on_acknowledged, transfer)
        if key in self._borrowers:
            self._engine.submit(Adopt(key, transfer.ready))
            self._borrowers.pop(key)()
            return
        cached = transfer.cached or 0
        self._engine.submit(AdmitReserved(key, transfer.tokens))
        self._outlet.tell(key, Admitted(
            key=key,
            transferred_bytes=max(0, transfer.ready - cached) * self._machine.layout.block_bytes,
            cached_blocks=cached,
            phases={"handoff_wire": self._loop.time() - transfer.granted_at},
        ))

    def _receive(self, request: Request, sender: Identity) -> Transfer:
        transfer = self._network.transfer(request.key, sender, self.identity)
        self._receiving[request.key] = transfer
        self._engine.submit(ReserveBlocks(request))
        return transfer

    # -- what comes to nothing ---------------------------------------------------------------

    def on_refused(self, event: Refused) -> None:
        """By the engine: a loan or a move has nothing to send, or there is no room here."""
        transfer = self._sending.get(event.key)
        if transfer is not None and transfer.kind is not Kind.PREFILL:
            self._end_sending(transfer, release=False)
            if transfer.kind is Kind.MIGRATION:
                self._outlet.tell(event.key, Parked(key=event.key, parked=False))
            return
        transfer = self._receiving.get(event.key)
        if transfer is not None:
            self._end_receiving(transfer, event.reason, release=False)

    def on_broken(self, transfer: Transfer) -> None:
        """The other end has given it up, or is gone."""
        key = transfer.key
        if self._receiving.get(key) is transfer:
            self._end_receiving(transfer, "no_session", release=True)
        elif self._sending.get(key) is transfer:
            self._end_sending(transfer, release=True)
            if transfer.kind is not Kind.LOAN:
                self._outlet.tell(key, Declined(key=key, reason="no_session"))
                self._outlet.forget(key)

    def _give_up(self, loan: Transfer) -> None:
        if self._receiving.get(loan.key) is loan:
            self._end_receiving(loan, "timeout", release=True)

    def _end_sending(self, transfer: Transfer, *, release: bool) -> None:
        del self._sending[transfer.key]
        self._break(transfer, transfer.receiver)
        if release:
            self._engine.submit(Release(transfer.key))

    def _end_receiving(self, transfer: Transfer, reason: str, *, release: bool) -> None:
        key = transfer.key
        del self._receiving[key]
        self._break(transfer, transfer.sender)
        if release:
            self._engine.submit(Release(key))
        then = self._borrowers.pop(key, None)
        if then is not None:
            then()
        elif transfer.kind is not Kind.LOAN:
            self._outlet.tell(key, Declined(key=key, reason=reason))
            self._outlet.forget(key)

    def _break(self, transfer: Transfer, other: Identity) -> None:
        self._network.end(transfer)
        end = self._network.end_of(other)
        if end is not None:
            self._loop.at(self._loop.time() + LATENCY, end.on_broken, transfer)


def _as_loan(request: Request) -> Request:
    return msgspec.structs.replace(request, key=loan_key(request.key))

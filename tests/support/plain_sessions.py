"""A router whose workers are entries in its books: sessions that keep what is sent, no sockets, no
answers but those that a test gives."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import msgspec
from scripted_workers import LAYOUT, MODEL

from baton.protocol.curves import StepCurve
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.link import LossCause, Session
from baton.protocol.records import (
    Admitted,
    Curves,
    Declined,
    Record,
    Request,
    Targets,
    TokenBatch,
    TokenDelta,
    WorkerHello,
)
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.registry import Worker

CURVE = StepCurve(
    base=0.01, chunk=0.0, token=1e-4, pair=0.0, decode=1e-4, context=0.0, spread=0.0, steps=1
)
_names = itertools.count()


class PlainSession:
    def __init__(self) -> None:
        self.is_open = True
        self.cause: LossCause | None = None
        self.heard = 0.0
        self.sent: list[Record] = []

    def speaks(self, kind: type[Record]) -> bool:
        return True

    def send(self, record: Record) -> int:
        self.sent.append(record)
        return len(self.sent)

    def has_acknowledged(self, number: int) -> bool:
        return True

    def was_handed_out(self, number: int) -> bool:
        return True

    def close(self, reason: str) -> None:
        self.is_open = False

    def lose(self, reason: str, cause: LossCause | None = None) -> None:
        self.is_open, self.cause = False, cause


def join(
    dispatcher: Dispatcher,
    name: str,
    role: str,
    *,
    curve: StepCurve | None = CURVE,
    max_running: int = 8,
    hello: WorkerHello | None = None,
) -> Worker:
    """A worker with 1000 blocks that has told of its speed."""
    worker = dispatcher.worker_joined(
        hello or WorkerHello(
            identity=Identity(name, 1), pid=1, host="h", role=role, model=MODEL, layout=LAYOUT,
            num_blocks=1000, max_running=max_running, peer_address=f"ipc:///{name}", device="cpu",
        ),
        cast(Session, PlainSession()),
    )
    if curve is not None:
        dispatcher.on_record(worker, Curves(step=curve))
    return worker


def sent(worker: Worker, *kinds: type[Record]) -> list[Record]:
    """What it got of these kinds."""
    records = cast(PlainSession, worker.session).sent
    return [record for record in records if isinstance(record, kinds)]


def make(
    *,
    max_tokens: int = 32,
    prompt: Sequence[int] | None = None,
    lane: str = "interactive",
    accepted: Sequence[int] = (),
    targets: Targets | None = None,
) -> Request:
    request = Request(
        key=RequestKey(f"r{next(_names)}", 0), choice=0, prompt=pack_tokens(prompt or range(20)),
        sampling=SamplingParams(seed=1, max_tokens=max_tokens), accepted=pack_tokens(accepted),
        lane=lane,
    )
    return request if targets is None else msgspec.structs.replace(request, targets=targets)


def answer(
    dispatcher: Dispatcher, worker: Worker, flight: Flight, tokens: int = 1, *, end: bool = False
) -> None:
    """Its next tokens, from this worker; `end`: with the last of them it is complete."""
    dispatcher.on_record(worker, TokenBatch(deltas=(TokenDelta(
        key=flight.key, position=len(flight.accepted), tokens=(7,) * tokens,
        finish_reason="stop" if end else None,
    ),)))


def decline(dispatcher: Dispatcher, worker: Worker, flight: Flight, reason: str) -> None:
    dispatcher.on_record(worker, Declined(key=flight.key, reason=reason))


def admit(dispatcher: Dispatcher, worker: Worker, flight: Flight) -> None:
    dispatcher.on_record(worker, Admitted(
        key=flight.key, transferred_bytes=1, cached_blocks=0, phases={}
    ))

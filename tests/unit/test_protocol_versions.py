"""Version N and N-1 read each other: fewer fields, more fields, and what is not said at all."""

from __future__ import annotations

import asyncio
import time
import typing
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import zmq

from baton.protocol.ids import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, Identity, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import Dialer, Listener, Session, UnspokenRecord
from baton.protocol.link.frames import AliveFrame, DataFrame, HelloFrame, WelcomeFrame, decode_frame
from baton.protocol.link.frames import encode_frame as encode
from baton.protocol.records import (
    DIRECT,
    AnyRecord,
    Cancel,
    Generate,
    Grant,
    Lend,
    Migrate,
    ModelCard,
    Parked,
    PeerHello,
    Prefill,
    Record,
    Request,
    RouterHello,
    Scheme,
    Sealed,
    WorkerHello,
    WorkerRef,
)
from baton.protocol.sampling import SamplingParams
from baton.protocol.versions import version_of
from baton.protocol.wire import from_wire, pack, to_wire, unpack

KEY = RequestKey("r", 1)
ME = Identity("w", 5)
REF = WorkerRef(ME, "tcp://127.0.0.1:1")
REQUEST = Request(key=KEY, choice=0, prompt=b"1234", sampling=SamplingParams(seed=1, max_tokens=2))
LAYOUT = KVLayout(2, 2, 8, 16, "float32")

ADDED_IN_2 = [
    (Prefill(request=REQUEST, decode=REF), 1),
    (Generate(request=REQUEST), 1),
    (Grant(key=KEY, operation=1, cached_blocks=0, num_blocks=2, first_tag=7), 1),
    (Sealed(key=KEY, operation=1, epoch=3, tokens=(4,)), 2),
    (RouterHello(identity=ME), 1),
    (PeerHello(identity=ME, host="h", fingerprint="f", layout=LAYOUT, transport="t",
               transport_address=b"a", pid=1), 1),
    (WorkerHello(identity=ME, pid=1, host="h", role="mixed", layout=LAYOUT, num_blocks=1,
                 model=ModelCard(fingerprint="f", name="n", max_model_len=1, vocab_size=1,
                                 dtype="float32"),
                 max_running=1, peer_address="p", device="cpu"), 3),
]
"""A record, and how many fields at its end version 1 does not have."""


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.002)


@pytest.mark.parametrize(("record", "added"), ADDED_IN_2, ids=lambda value: type(value).__name__)
def test_what_an_older_peer_leaves_out_has_a_default(record: Record, added: int) -> None:
    assert from_wire(to_wire(record)[:-added]) == record


def test_only_defaults_come_after_the_fields_of_version_1() -> None:
    """A field without one would refuse every older peer."""
    for record, added in ADDED_IN_2:
        fields = msgspec.structs.fields(record)
        assert all(not field.required for field in fields[-added:])


def test_what_a_newer_peer_adds_is_skipped() -> None:
    kinds = typing.get_args(AnyRecord)
    assert len(kinds) >= 20
    for record, _ in ADDED_IN_2:
        wire = to_wire(record)
        assert from_wire([*wire, "new", {"x": [1]}, None]) == record
    nested: list[Any] = to_wire(Generate(request=REQUEST))
    nested[1] = [*nested[1], "a new field of the request"]
    assert from_wire(nested) == Generate(request=REQUEST)


@pytest.mark.parametrize("record", [
    Lend(request=REQUEST, borrower=REF),
    Migrate(key=KEY, decode=REF),
    Parked(key=KEY, parked=True),
    Grant(key=KEY, operation=1, cached_blocks=0, num_blocks=2, first_tag=7, scheme=Scheme(4, True)),
], ids=lambda record: type(record).__name__)
def test_what_an_older_peer_would_misunderstand_is_not_said(record: Record) -> None:
    old, new = (
        Session(1, version, RouterHello(identity=ME), now=0.0, notify=lambda: None)
        for version in (1, 2)
    )
    assert version_of(record) == 2
    with pytest.raises(UnspokenRecord, match="needs protocol version 2, the peer speaks 1"):
        old.send(record)
    assert old.is_open
    assert old.poll(0.0) == []
    assert old.send(Cancel(key=KEY, reason="r")) == 1  # it took no number
    new.send(record)
    (frame,) = new.poll(0.0)
    assert isinstance(frame, DataFrame)
    assert from_wire(unpack(frame.records[0])) == record


def test_owners_can_ask_before_they_speak() -> None:
    old = Session(1, 1, RouterHello(identity=ME), now=0.0, notify=lambda: None)
    assert [old.speaks(kind) for kind in (Lend, Migrate, Parked)] == [False] * 3
    assert old.speaks(Cancel)
    assert old.speaks(Grant)
    direct = Grant(key=KEY, operation=1, cached_blocks=0, num_blocks=2, first_tag=7, scheme=DIRECT)
    assert version_of(direct) == 1


def test_one_older_version_is_spoken() -> None:
    assert PROTOCOL_VERSION - OLDEST_PROTOCOL_VERSION == 1


async def test_a_dialer_of_the_version_before() -> None:
    """It knows neither the new fields nor the new records, and is served."""
    sessions: list[Session] = []
    received: list[Record] = []

    def accept(session: Session) -> Record:
        sessions.append(session)
        session.on_record = received.append
        return RouterHello(identity=ME)

    listener = Listener(ME, accept)
    address = await listener.bind("tcp://127.0.0.1:0")
    with zmq.Context.instance().socket(zmq.DEALER) as raw:
        raw.linger = 0
        raw.connect(address)
        hello = pack(to_wire(RouterHello(identity=Identity("old", 9)))[:-1])
        raw.send(encode(HelloFrame(1, 70, 1, hello)))
        await until(lambda: bool(raw.poll(0)))
        answer = decode_frame(raw.recv())
        assert isinstance(answer, WelcomeFrame)
        assert answer.version == sessions[0].version == 1
        record, added = ADDED_IN_2[2]
        raw.send(encode(DataFrame(1, 70, 0, 1, (pack(to_wire(record)[:-added]),))))
        await until(lambda: received == [record])
        with pytest.raises(UnspokenRecord):
            sessions[0].send(Lend(request=REQUEST, borrower=REF))
        sessions[0].send(Cancel(key=KEY, reason="r"))
        seen: list[DataFrame] = []

        def told() -> bool:
            while raw.poll(0):
                frame = decode_frame(raw.recv())
                assert frame.version == 1
                if isinstance(frame, DataFrame):
                    seen.append(frame)
            return bool(seen)

        await until(told)
        assert from_wire(unpack(seen[0].records[0])) == Cancel(key=KEY, reason="r")
    await listener.close()


async def test_a_listener_of_the_version_before() -> None:
    sessions: list[Session] = []
    with zmq.Context.instance().socket(zmq.ROUTER) as raw:
        raw.linger = 0
        port = raw.bind_to_random_port("tcp://127.0.0.1")
        dialer = Dialer(
            ME, f"tcp://127.0.0.1:{port}", lambda: RouterHello(identity=ME), sessions.append
        )
        dialer.start()
        await until(lambda: bool(raw.poll(0)))
        route, data = raw.recv_multipart()
        hello = decode_frame(data)
        assert isinstance(hello, HelloFrame)
        assert (hello.version, hello.oldest) == (PROTOCOL_VERSION, OLDEST_PROTOCOL_VERSION)
        old = pack(to_wire(RouterHello(identity=Identity("old", 9)))[:-1])
        raw.send_multipart([route, encode(WelcomeFrame(1, hello.session, old))])
        await until(lambda: bool(sessions))
        assert sessions[0].version == 1
        assert not sessions[0].speaks(Migrate)
        raw.send_multipart([route, encode(AliveFrame(1, hello.session, 0))])
        await dialer.close()

"""The pure session machine against a network that drops, delays, duplicates and reorders."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.protocol.ids import Identity, RequestKey
from baton.protocol.link import LinkSettings, LossCause, Session, SessionClosed
from baton.protocol.link.frames import (
    AliveFrame,
    AnyFrame,
    ByeFrame,
    DataFrame,
    decode_frame,
    encode_frame,
)
from baton.protocol.records import (
    Generate,
    Prefill,
    Record,
    Request,
    Reserve,
    RouterHello,
    SetRole,
    WorkerRef,
)
from baton.protocol.sampling import SamplingParams
from baton.protocol.wire import MalformedRecord, pack, to_wire

SMALL = LinkSettings(window_records=8, frame_bytes=64, backlog_records=1000, lost_after=3.0)
HELLO = RouterHello(identity=Identity("peer", 1))


@dataclass
class End:
    """One end, with what it was given."""

    session: Session
    received: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    sent: int = 0

    @classmethod
    def open(cls, options: LinkSettings = SMALL, now: float = 0.0) -> End:
        session = Session(1, 1, HELLO, now=now, notify=lambda: None, settings=options)
        end = cls(session)
        session.on_record = end.take
        session.on_lost = end.lost.append
        return end

    def take(self, record: Record) -> None:
        assert isinstance(record, SetRole)
        self.received.append(int(record.role))

    def send(self) -> None:
        if self.session.is_open:
            self.session.send(SetRole(role=str(self.sent)))
            self.sent += 1

    def poll(self, now: float) -> list[AnyFrame]:
        return [decode_frame(encode_frame(frame)) for frame in self.session.poll(now)]


events = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 12)),
        st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(0, 30)),
        st.tuples(st.just("copy"), st.integers(0, 1), st.integers(0, 30)),
        st.tuples(st.just("drop"), st.integers(0, 1), st.integers(0, 30)),
        st.tuples(st.just("cut"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 1), st.integers(1, 60)),
    ),
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(events)
def test_every_record_arrives_once_in_order_or_the_session_is_lost(
    script: list[tuple[str, int, int]],
) -> None:
    ends = [End.open(), End.open()]
    wires: list[list[AnyFrame]] = [[], []]  # wires[i] holds what end i sent
    now = 0.0

    def poll_both() -> None:
        for end, wire in zip(ends, wires, strict=True):
            wire.extend(end.poll(now))

    for action, side, amount in script:
        wire = wires[side]
        if action == "send":
            for _ in range(amount):
                ends[side].send()
        elif action == "wait":
            now += amount / 50
        elif action == "cut":
            wires[0].clear()
            wires[1].clear()
            for end in ends:
                end.session.connection_changed(now)
        elif wire:
            index = amount % len(wire)
            if action == "deliver":
                ends[1 - side].session.receive(wire.pop(index), now)
            elif action == "copy":
                ends[1 - side].session.receive(wire[index], now)
            else:
                wire.pop(index)
        poll_both()
        for end, other in zip(ends, reversed(ends), strict=True):
            assert end.received == list(range(len(end.received)))
            assert len(end.received) <= other.sent

    for _ in range(400):  # from here on the network is a good one
        now += 0.05
        poll_both()
        for side in (0, 1):
            while wires[side]:
                ends[1 - side].session.receive(wires[side].pop(0), now)
    if all(end.session.is_open for end in ends):
        assert ends[0].received == list(range(ends[1].sent))
        assert ends[1].received == list(range(ends[0].sent))
        assert not ends[0].lost
        assert not ends[1].lost
    else:
        assert [len(end.lost) for end in ends] == [1, 1]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.recursive(
    st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1), st.binary(max_size=8),
              st.text(max_size=8), st.floats(allow_nan=True)),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)))
def test_garbage_is_malformed_and_nothing_else(junk: object) -> None:
    data = junk if isinstance(junk, bytes) else pack(junk)
    try:
        frame = decode_frame(data)
    except MalformedRecord:
        return
    end = End.open()
    end.session.receive(msgspec.structs.replace(frame, session=1), 0.0)
    end.poll(0.1)
    assert end.received == []


def test_a_malformed_record_spoils_only_itself() -> None:
    end = End.open()
    good = [pack(to_wire(SetRole(role=str(i)))) for i in range(3)]
    mixed = (good[0], b"\xc1", pack(["Nonsense", 1]), good[1])
    end.session.receive(DataFrame(1, 1, 0, 1, mixed), 0)
    end.session.receive(DataFrame(1, 1, 0, 5, (good[2],)), 0)
    assert end.received == [0, 1, 2]
    assert end.session.stats.malformed_total == 2


def test_a_receipt_for_what_was_never_sent_is_dropped() -> None:
    end = End.open()
    end.session.receive(AliveFrame(1, 1, 7), 0)
    end.session.receive(DataFrame(1, 1, 7, 1, (pack(to_wire(SetRole(role="0"))),)), 0)
    assert end.received == []
    assert end.session.stats.malformed_total == 2
    assert end.session.is_open


def test_silence_is_reported_once_and_send_then_raises() -> None:
    end = End.open()
    assert end.session.next_deadline() == 0.5
    end.poll(2.9)
    assert end.session.is_open
    end.poll(3.0)
    end.poll(4.0)
    assert len(end.lost) == 1
    with pytest.raises(SessionClosed):
        end.session.send(SetRole(role="0"))


def test_a_broken_connection_shortens_the_wait() -> None:
    end = End.open()
    end.session.connection_broken(0.2)
    assert end.session.next_deadline() == 0.5
    end.poll(0.9)
    assert end.session.is_open
    end.poll(1.0)
    assert len(end.lost) == 1
    assert end.session.cause is LossCause.CONNECTION
    assert end.session.heard == 0.0


def test_what_left_and_what_arrived() -> None:
    end = End.open(LinkSettings(window_records=2))
    numbers = [end.session.send(SetRole(role="0")) for _ in range(4)]
    assert numbers == [1, 2, 3, 4]
    assert not end.session.was_handed_out(1)
    end.poll(0.0)  # the window holds two
    assert end.session.was_handed_out(2)
    assert not end.session.was_handed_out(3)
    assert not end.session.has_acknowledged(1)
    end.session.receive(AliveFrame(1, 1, 1), 0.1)
    assert end.session.has_acknowledged(1)
    assert not end.session.has_acknowledged(2)
    end.session.connection_broken(0.2)
    end.poll(0.2)  # the third is packed for a connection that is not there
    assert not end.session.was_handed_out(3)
    end.session.connection_changed(0.3)
    end.poll(0.3)
    assert end.session.was_handed_out(3)
    assert not end.session.was_handed_out(4)


def test_an_idle_session_pings_and_traffic_replaces_pings() -> None:
    end = End.open()
    assert end.poll(0.4) == []
    assert end.poll(0.5) == [AliveFrame(1, 1, 0)]
    end.send()
    assert len(end.poll(0.9)) == 1
    end.session.receive(AliveFrame(1, 1, 1), 1.0)
    assert end.poll(1.3) == []
    assert end.poll(1.4) == [AliveFrame(1, 1, 0)]


def test_the_receipt_for_a_request_goes_at_once() -> None:
    """It tells a death that the request may have caused from one before it arrived."""
    end = End.open()
    taken: list[Record] = []
    end.session.on_record = taken.append
    request = Request(
        key=RequestKey("r", 0), choice=0, prompt=b"1234",
        sampling=SamplingParams(seed=1, max_tokens=2),
    )
    worker = WorkerRef(Identity("w", 1), "p")
    for number, record in enumerate((
        Generate(request=request), Prefill(request=request, decode=worker),
        Reserve(request=request, prefill=worker),
    ), 1):
        end.session.receive(DataFrame(1, 1, 0, number, (pack(to_wire(record)),)), 0.0)
        assert end.poll(0.0) == [AliveFrame(1, 1, number)]
    assert len(taken) == 3


def test_receipts_wait_for_company_and_ride_on_records() -> None:
    end = End.open()
    end.session.receive(DataFrame(1, 1, 0, 1, (pack(to_wire(SetRole(role="0"))),)), 0.0)
    assert end.poll(0.0) == []
    assert end.session.next_deadline() == pytest.approx(0.1)
    assert end.poll(0.1) == [AliveFrame(1, 1, 1)]
    end.session.receive(DataFrame(1, 1, 0, 2, (pack(to_wire(SetRole(role="1"))),)), 0.2)
    end.send()
    (frame,) = end.poll(0.2)
    assert isinstance(frame, DataFrame)
    assert frame.ack == 2


def test_a_peer_that_falls_behind_is_lost_and_not_from_inside_send() -> None:
    end = End.open(LinkSettings(backlog_records=10))
    for _ in range(11):
        end.send()
    assert end.lost == []
    assert not end.session.is_open
    end.poll(0.0)
    assert end.lost == ["backlog full: the peer does not keep up"]


def test_close_tells_the_peer_after_what_was_sent() -> None:
    a, b = End.open(), End.open()
    a.send()
    a.session.close("done")
    assert a.lost == []
    frames = a.poll(0.0)
    assert isinstance(frames[-1], ByeFrame)
    for frame in frames:
        b.session.receive(frame, 0.0)
    b.poll(0.0)
    assert (a.lost, b.received, b.lost) == (["done"], [0], ["done"])


def test_records_wait_for_their_handler() -> None:
    session = Session(1, 1, HELLO, now=0.0, notify=lambda: None)
    session.receive(DataFrame(1, 1, 0, 1, (pack(to_wire(SetRole(role="0"))),)), 0.0)
    session.receive(ByeFrame(1, 1, "gone"), 0.0)
    session.poll(0.0)
    calls: list[object] = []
    session.on_record = calls.append
    session.poll(0.0)
    session.on_lost = calls.append
    session.poll(0.0)
    session.poll(0.0)
    assert calls == [SetRole(role="0"), "gone"]


def test_a_handler_that_raises_costs_only_its_record() -> None:
    session = Session(1, 1, HELLO, now=0.0, notify=lambda: None)
    seen: list[str] = []

    def handle(record: Record) -> None:
        assert isinstance(record, SetRole)
        if record.role == "0":
            raise RuntimeError("no")
        seen.append(record.role)

    session.on_record = handle
    records = tuple(pack(to_wire(SetRole(role=str(i)))) for i in range(2))
    session.receive(DataFrame(1, 1, 0, 1, records), 0.0)
    assert seen == ["1"]
    assert session.stats.handler_errors == 1

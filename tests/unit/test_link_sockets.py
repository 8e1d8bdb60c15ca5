"""Listener and dialer over real sockets: broken connections, restarts, garbage, bursts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from baton.protocol.errors import BatonError, ConfigError
from baton.protocol.ids import PROTOCOL_VERSION, Identity, new_epoch, own_process
from baton.protocol.link import Dialer, LinkSettings, Listener, LossCause, Session
from baton.protocol.link.address import ipc_is_served
from baton.protocol.link.frames import AliveFrame, ByeFrame, HelloFrame, RefuseFrame, decode_frame
from baton.protocol.link.frames import encode_frame as encode
from baton.protocol.link.hello import hello_identity
from baton.protocol.records import Record, RouterHello, SetRole
from baton.protocol.wire import pack, to_wire

FAST = LinkSettings(
    ping_interval=0.05, lost_after=100.0, reconnect_grace=100.0, dial_attempt=100.0,
    ack_delay=0.02, dial_backoff_max=0.2,
)
"""Quick to speak and slow to despair: a test process that stands still for seconds has given
nobody up, and tests of loss say themselves what ends a session."""


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.005)


class Node:
    """A listener or dialer with what it was given."""

    def __init__(self, name: str, epoch: int | None = None) -> None:
        self.settings = FAST
        self.identity = Identity(name, epoch or new_epoch())
        self.sessions: list[Session] = []
        self.lost: list[tuple[int, str]] = []
        self.received: list[str] = []
        self.refusals: list[str] = []
        self.refuse_with: Exception | None = None
        self.end: Listener | Dialer | None = None

    def accept(self, session: Session) -> Record:
        if self.refuse_with is not None:
            raise self.refuse_with
        index = len(self.sessions)
        self.sessions.append(session)
        session.on_record = self.take
        session.on_lost = lambda reason: self.lost.append((index, reason))
        return RouterHello(identity=self.identity)

    def take(self, record: Record) -> None:
        assert isinstance(record, SetRole)
        self.received.append(record.role)

    async def listen(self, address: str = "tcp://127.0.0.1:0") -> str:
        listener = Listener(self.identity, self.accept, settings=self.settings)
        self.end = listener
        return await listener.bind(address)

    def dial(self, address: str) -> None:
        dialer = Dialer(
            self.identity,
            address,
            lambda: RouterHello(identity=self.identity),
            lambda session: (self.accept(session), None)[1],
            self.refusals.append,
            settings=self.settings,
        )
        self.end = dialer
        dialer.start()

    def send(self, *roles: str) -> None:
        for role in roles:
            self.sessions[-1].send(SetRole(role=role))

    async def close(self) -> None:
        if self.end is not None:
            await self.end.close()


@pytest.fixture
async def nodes() -> AsyncIterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(name: str, epoch: int | None = None) -> Node:
        made.append(Node(name, epoch))
        return made[-1]

    yield make
    for node in made:
        await node.close()


async def joined(a: Node, b: Node) -> None:
    await until(lambda: bool(a.sessions) and bool(b.sessions))


class Relay:
    """A TCP relay, so that a test can break connections without touching either end."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self, target: str) -> str:
        host, _, port = target.removeprefix("tcp://").rpartition(":")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            back_reader, back_writer = await asyncio.open_connection(host, int(port))
            self.writers += [writer, back_writer]
            await asyncio.gather(copy(reader, back_writer), copy(back_reader, writer))

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
            except ConnectionError:
                pass
            finally:
                sink.close()

        self.server = await asyncio.start_server(serve, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()


async def test_records_both_ways_and_goodbye(nodes: Callable[..., Node]) -> None:
    listener, dialer = nodes("router"), nodes("worker")
    dialer.dial(await listener.listen())
    await joined(listener, dialer)
    process = own_process()  # which the link adds to what the owner says
    assert listener.sessions[0].peer_hello == RouterHello(
        identity=dialer.identity, process=process
    )
    assert dialer.sessions[0].peer_hello == RouterHello(
        identity=listener.identity, process=process
    )
    listener.send("a", "b")
    dialer.send("c")
    await until(lambda: dialer.received == ["a", "b"] and listener.received == ["c"])
    await dialer.close()
    assert dialer.lost == [(0, "the peer closed")]
    await until(lambda: listener.lost == [(0, "the peer closed")])
    assert dialer.sessions[0].cause is LossCause.HERE
    assert listener.sessions[0].cause is LossCause.GOODBYE


async def test_whoever_fails_says_so_instead_of_goodbye(nodes: Callable[..., Node]) -> None:
    listener, dialer = nodes("router"), nodes("worker")
    dialer.dial(await listener.listen())
    await joined(listener, dialer)
    assert isinstance(dialer.end, Dialer)
    await dialer.end.close("the engine failed")
    await until(lambda: listener.lost == [(0, "the engine failed")])
    assert listener.sessions[0].cause is LossCause.FAILED


async def test_ipc_and_a_taken_path(nodes: Callable[..., Node], tmp_path: Path) -> None:
    listener, dialer, second = nodes("router"), nodes("worker"), nodes("router")
    address = f"ipc://{tmp_path}/control"
    assert await listener.listen(address) == address
    dialer.dial(address)
    await joined(listener, dialer)
    with pytest.raises(ConfigError, match="in use"):
        await second.listen(address)


async def test_a_busy_port_is_named(nodes: Callable[..., Node]) -> None:
    address = await nodes("router").listen()
    assert address.startswith("tcp://127.0.0.1:")
    with pytest.raises(ConfigError, match=address):
        await nodes("other").listen(address)
    with pytest.raises(ConfigError, match="tcp://HOST:PORT"):
        await nodes("third").listen("127.0.0.1")


async def test_a_dialer_waits_for_its_listener(
    nodes: Callable[..., Node], tmp_path: Path
) -> None:
    listener, dialer = nodes("router"), nodes("worker")
    dialer.dial(f"ipc://{tmp_path}/control")
    await until(lambda: isinstance(dialer.end, Dialer) and dialer.end.attempt is not None)
    await listener.listen(f"ipc://{tmp_path}/control")
    await joined(listener, dialer)


async def test_names_are_resolved(nodes: Callable[..., Node]) -> None:
    listener, dialer = nodes("router"), nodes("worker")
    dialer.settings = replace(FAST, dial_attempt=2.0)  # the name may mean ::1 first
    dialer.dial((await listener.listen()).replace("127.0.0.1", "localhost"))
    await joined(listener, dialer)


async def test_a_broken_connection_loses_nothing(nodes: Callable[..., Node]) -> None:
    listener, dialer = nodes("router"), nodes("worker")
    relay = Relay()
    dialer.dial(await relay.start(await listener.listen()))
    await joined(listener, dialer)
    expected = [str(number) for number in range(600)]
    for number in expected:
        listener.send(number)
        dialer.send(number)
        if int(number) % 100 == 50:
            relay.cut()
        if int(number) % 20 == 0:
            await asyncio.sleep(0.001)
    await until(
        lambda: bool(listener.lost or dialer.lost)
        or (len(listener.received) >= 600 and len(dialer.received) >= 600)
    )
    assert listener.lost == dialer.lost == []
    assert listener.received == expected
    assert dialer.received == expected
    relay.server.close()
    relay.cut()


async def test_a_restarted_listener_is_a_new_session(
    nodes: Callable[..., Node], tmp_path: Path
) -> None:
    first, dialer, second = nodes("router"), nodes("worker"), nodes("router")
    address = await first.listen(f"ipc://{tmp_path}/control")
    dialer.dial(address)
    await joined(first, dialer)
    # Gone without a goodbye, as after a kill.
    assert isinstance(first.end, Listener)
    assert first.end.pump is not None
    first.end.pump.close()
    await until(lambda: not ipc_is_served(address))
    await second.listen(address)
    await until(lambda: len(dialer.sessions) == 2)
    assert dialer.lost == [(0, "the peer does not know this session")]
    assert hello_identity(dialer.sessions[1].peer_hello) == second.identity
    dialer.send("x")
    await until(lambda: second.received == ["x"])


async def test_a_new_epoch_ends_the_old_session_and_bars_it(nodes: Callable[..., Node]) -> None:
    listener, old, new = nodes("router"), nodes("worker"), nodes("worker")
    address = await listener.listen()
    old.dial(address)
    await joined(listener, old)
    new.dial(address)
    await until(lambda: len(listener.sessions) == 2)
    assert listener.lost == [(0, "the peer was started again")]
    await until(lambda: bool(old.refusals))
    assert "replaced by a later start" in old.refusals[0]
    assert [index for index, _ in old.lost] == [0]
    assert listener.sessions[1].is_open


async def test_hellos_of_attempts_that_were_given_up_change_nothing(
    nodes: Callable[..., Node],
) -> None:
    listener, peer = nodes("router"), nodes("worker")
    address = await listener.listen()
    dialer = Dialer(peer.identity, address, lambda: RouterHello(identity=peer.identity), print)
    early, late = dialer.next_session(), dialer.next_session()
    record = pack(to_wire(RouterHello(identity=peer.identity)))
    context = zmq.Context.instance()
    with context.socket(zmq.DEALER) as new, context.socket(zmq.DEALER) as old:
        new.linger = old.linger = 0
        new.connect(address)
        old.connect(address)
        # In this order, as a listener may read them that was away for a while.
        new.send(encode(HelloFrame(1, late, 1, record)))
        await until(lambda: len(listener.sessions) == 1)
        old.send(encode(HelloFrame(1, early, 1, record)))
        old.send(encode(AliveFrame(1, early, 0)))
        await until(lambda: bool(old.poll(0)))
        assert isinstance(decode_frame(old.recv()), ByeFrame)
        assert len(listener.sessions) == 1
        assert listener.lost == []


async def test_a_killed_peer_is_lost_within_the_grace(nodes: Callable[..., Node]) -> None:
    listener, dialer = nodes("router"), nodes("worker")
    listener.settings = replace(FAST, reconnect_grace=0.3)
    dialer.dial(await listener.listen())
    await joined(listener, dialer)
    # The process is gone: its sockets close and nothing more is said.
    assert isinstance(dialer.end, Dialer)
    assert dialer.end.attempt is not None
    dialer.end.attempt.pump.close()
    await until(lambda: bool(listener.lost))
    assert listener.sessions[0].cause is LossCause.CONNECTION  # by the grace, not by silence
    assert len(listener.lost) == 1


async def test_a_broken_connection_is_noticed_at_once(nodes: Callable[..., Node]) -> None:
    """Not only when there is something to say: nothing is said for half a minute here."""
    listener, dialer = nodes("router"), nodes("worker")
    quiet = LinkSettings(ping_interval=30.0, lost_after=100.0, reconnect_grace=0.1)
    end = listener.end = Listener(listener.identity, listener.accept, settings=quiet)
    dialer.dial(await end.bind("tcp://127.0.0.1:0"))
    await joined(listener, dialer)
    assert isinstance(dialer.end, Dialer)
    assert dialer.end.attempt is not None
    dialer.end.attempt.pump.close()
    await until(lambda: bool(listener.lost))
    assert listener.sessions[0].cause is LossCause.CONNECTION
    loop_now = asyncio.get_running_loop().time()
    assert loop_now - listener.sessions[0].heard < quiet.ping_interval


async def test_refusals_are_by_name(nodes: Callable[..., Node]) -> None:
    listener, dialer = nodes("router"), nodes("worker")
    listener.refuse_with = BatonError("invalid_value", "model fingerprint aa is not bb")
    dialer.dial(await listener.listen())
    await until(lambda: bool(dialer.refusals))
    assert dialer.refusals[0] == "model fingerprint aa is not bb"
    listener.refuse_with = None
    await joined(listener, dialer)


@pytest.mark.parametrize(
    ("version", "oldest", "accepted"), [(0, 0, False), (99, 99, False), (99, 1, True), (1, 1, True)]
)
async def test_versions(
    nodes: Callable[..., Node], version: int, oldest: int, accepted: bool
) -> None:
    listener = nodes("router")
    address = await listener.listen()
    with zmq.Context.instance().socket(zmq.DEALER) as raw:
        raw.linger = 0
        raw.connect(address)
        hello = pack(to_wire(RouterHello(identity=Identity("worker", 5))))
        raw.send(encode(HelloFrame(version, 7, oldest, hello)))
        await until(lambda: bool(raw.poll(0)))
        answer = decode_frame(raw.recv())
    assert isinstance(answer, RefuseFrame) is not accepted
    if isinstance(answer, RefuseFrame):
        assert f"protocol versions {oldest} to {version} are not spoken" in answer.reason
        assert listener.sessions == []
    else:
        assert answer.version == min(version, PROTOCOL_VERSION)


async def test_garbage_is_counted_and_harmless(nodes: Callable[..., Node]) -> None:
    listener, dialer = nodes("router"), nodes("worker")
    address = await listener.listen()
    dialer.dial(address)
    await joined(listener, dialer)
    assert isinstance(listener.end, Listener)
    session_id = listener.sessions[0].session_id
    with zmq.Context.instance().socket(zmq.DEALER) as raw:
        raw.linger = 0
        raw.connect(address)
        raw.send(b"")
        raw.send_multipart([b"a", b"b", b"c"])
        raw.send(os.urandom(100_000))
        raw.send(pack([4, 1, "x", []]))
        raw.send(pack([1, 1, 9, 1, b"no record"]))
        raw.send(pack([1, 1, 10, 1, pack(to_wire(SetRole(role="no hello")))]))
        raw.send(pack([2, 1, session_id, b""]))
        raw.send(encode(AliveFrame(1, session_id, 1000)))
        stats = listener.end.stats
        await until(lambda: stats.malformed_total >= 8)
    dialer.send("still here")
    listener.send("and here")
    await until(lambda: listener.received == ["still here"] and dialer.received == ["and here"])
    assert len(listener.sessions) == 1
    assert listener.lost == dialer.lost == []


async def test_a_burst_of_twenty_thousand(nodes: Callable[..., Node]) -> None:
    listener, dialer = nodes("router"), nodes("worker")
    dialer.dial(await listener.listen())
    await joined(listener, dialer)
    expected = [str(number) for number in range(20_000)]
    listener.send(*expected)
    dialer.send(*expected[:5000])
    await until(lambda: len(dialer.received) >= 20_000 and len(listener.received) >= 5000)
    assert dialer.received == expected
    assert listener.received == expected[:5000]


async def test_an_idle_session_hardly_wakes(
    nodes: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loop has something to do only when a ping is due or came."""
    listener, dialer = Node("router"), Node("worker")
    end = Listener(listener.identity, listener.accept)
    address = await end.bind("tcp://127.0.0.1:0")
    dialing = Dialer(
        dialer.identity,
        address,
        lambda: RouterHello(identity=dialer.identity),
        lambda session: (dialer.accept(session), None)[1],
    )
    dialing.start()
    await joined(listener, dialer)
    wakes = 0
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select = selector.select

    def counted(timeout: float | None = None) -> object:
        nonlocal wakes
        wakes += 1
        return select(timeout)

    monkeypatch.setattr(selector, "select", counted)
    began = time.monotonic()
    await asyncio.sleep(1.5)
    passed = time.monotonic() - began
    await dialing.close()
    await end.close()
    assert 0 < wakes < 60 * passed

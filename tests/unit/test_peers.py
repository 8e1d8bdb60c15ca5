"""Hand-off channels between two workers of one process: probing, unequal layouts, back-pressure."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import numpy as np
import pytest
from transports import random_bytes, until

from baton.kvtransfer import channel as channel_module
from baton.kvtransfer.channel import Channel
from baton.kvtransfer.conversion import Cut
from baton.kvtransfer.inproc import InprocTransport
from baton.kvtransfer.memory import blocks_of
from baton.kvtransfer.mover import BlockMover
from baton.kvtransfer.peers import IncomingPeers, OutgoingPeers
from baton.kvtransfer.probe import rule
from baton.kvtransfer.tags import TagIssuer
from baton.protocol.ids import Identity, RequestKey, host_id, new_epoch
from baton.protocol.kvlayout import AXES, KVLayout
from baton.protocol.link import Dialer
from baton.protocol.records import Ack, PeerHello, Record, Revoke, Scheme, WorkerRef

LAYOUT = KVLayout(2, 2, 4, 4, "float32")
NUM_BLOCKS = 24
KEY = RequestKey("r", 0)


class Heard:
    """Stands for a stage."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.sessions: list[Identity] = []
        self.lost: list[Identity] = []

    def on_record(self, peer: Identity, record: Record) -> None:
        self.records.append(record)

    def on_session(self, peer: Identity) -> None:
        self.sessions.append(peer)

    def on_peer_lost(self, peer: Identity) -> None:
        self.lost.append(peer)


class Peer:
    """One worker's channels, over memory that is all its own."""

    def __init__(self, name: str, layout: KVLayout, *, probes: bool = True) -> None:
        self.identity = Identity(name, new_epoch())
        self.layout = layout
        flat = random_bytes(NUM_BLOCKS * layout.block_bytes, len(name))
        self.memory = flat.reshape(NUM_BLOCKS, layout.block_bytes)
        self.transport = InprocTransport()
        self.tags = TagIssuer()
        self.mover = BlockMover(self.transport, blocks_of(self.memory))
        self.outgoing = OutgoingPeers(
            self.identity, self.hello, self.transport, self.retire, self.mover)
        issue_tags = self.tags.issue if probes else None
        self.incoming = IncomingPeers(self.identity, self.hello, self.mover, issue_tags)
        self.as_sender, self.as_receiver = Heard(), Heard()
        self.outgoing.events, self.incoming.events = self.as_sender, self.as_receiver
        self._closing: set[asyncio.Task[None]] = set()

    def hello(self) -> PeerHello:
        return PeerHello(
            identity=self.identity, host=host_id(), fingerprint="model", layout=self.layout,
            transport="inproc", transport_address=self.transport.address, pid=os.getpid())

    def retire(self, dialer: Dialer) -> None:
        task = asyncio.get_running_loop().create_task(dialer.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def start(self) -> Peer:
        self.ref = WorkerRef(self.identity, await self.incoming.bind("tcp://127.0.0.1:0"))
        return self

    async def close(self) -> None:
        await self.outgoing.close()
        await self.incoming.close()
        if self._closing:
            await asyncio.wait(self._closing)
        await self.transport.close()


class Peers:
    def __init__(self) -> None:
        self.all: list[Peer] = []

    async def make(self, name: str, layout: KVLayout = LAYOUT, *, probes: bool = True) -> Peer:
        self.all.append(await Peer(name, layout, probes=probes).start())
        return self.all[-1]


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    made = Peers()
    yield made
    for each in made.all:
        await each.close()


async def open_channel(sender: Peer, receiver: Peer) -> Channel:
    channel = sender.outgoing.reach(receiver.ref)
    await until(lambda: channel.session is not None, "the session")
    return channel


async def test_a_session_begins_with_a_probe_and_so_does_the_next(peers: Peers) -> None:
    a, b = await peers.make("a"), await peers.make("bb")
    before = b.memory.copy()
    assert b.incoming.scheme_from(a.identity) == Scheme(), "unknown peers get no scheme"
    await open_channel(a, b)
    assert b.incoming.scheme_from(a.identity) in (
        rule(LAYOUT.block_bytes, scatters=True), *(r.chosen for r in b.incoming.probes.values()))
    await until(lambda: b.incoming.probes, "the probe")
    first = b.incoming.probes["a"]
    assert b.incoming.scheme_from(a.identity) == first.chosen
    a.outgoing.drop(b.identity, "for the test")
    await until(lambda: b.as_receiver.lost, "the loss")
    await open_channel(a, b)
    await until(lambda: b.incoming.probes["a"] is not first, "the second probe")
    assert np.array_equal(b.memory, before), "a probe touches no block of a pool"
    assert a.as_sender.records == [], "a probe is no business of the stage"


async def test_other_records_reach_the_stages(peers: Peers) -> None:
    a, b = await peers.make("a"), await peers.make("bb")
    channel = a.outgoing.reach(b.ref)
    channel.tell(Ack(key=KEY, operation=1))  # before there is a session
    await until(lambda: b.as_receiver.records, "the record")
    b.incoming.tell(a.identity, Revoke(key=KEY, operation=1, first_tag=1, num_tags=1))
    await until(lambda: a.as_sender.records, "the answer")
    assert isinstance(a.as_sender.records[0], Revoke)


@pytest.mark.parametrize("theirs", [
    KVLayout(2, 2, 4, 3, "float32"),
    KVLayout(2, 2, 4, 8, "float32"),
    KVLayout(2, 2, 4, 4, "float32", ("token", "head", "layer", "kv", "dim")),
    KVLayout(2, 1, 4, 6, "float32", ("layer", "kv", "token", "head", "dim")),
])
async def test_the_receiver_sees_its_own_layout(peers: Peers, theirs: KVLayout) -> None:
    a, b = await peers.make("a"), await peers.make("bb", theirs)
    channel = await open_channel(a, b)
    assert channel.converts
    assert not b.incoming.probes
    scheme = b.incoming.scheme_from(a.identity)
    assert not scheme.staged
    if theirs.block_size != 4:
        assert channel.block_sizes == (4, theirs.block_size)
    source, tokens = [7, 2, 9, 0, 5, 11], 24
    target = list(range(20, 20 - tokens // theirs.block_size, -1))
    tag, ended = b.tags.issue(1), []
    b.mover.receive(target, tag, scheme, ended.append)
    channel.send_blocks(KEY, source, tag, scheme, ended.append, Cut(0, len(target)))
    await until(lambda: len(ended) == 2, "the message")
    assert ended == [None, None]

    def by_token(memory: np.ndarray, layout: KVLayout, blocks: list[int]) -> np.ndarray:
        """[token, layer, kv, head, dim] of the heads that both sides have."""
        blocks_first = memory[blocks].view(np.float32).reshape(len(blocks), *layout.shape)
        places = [1 + layout.axes.index(axis) for axis in ("token", "layer", "kv", "head", "dim")]
        ordered = blocks_first.transpose(0, *places)
        return ordered.reshape(-1, *ordered.shape[2:])[:, :, :, : theirs.num_kv_heads]

    ours_by_token = by_token(a.memory, LAYOUT, source)
    theirs_by_token = by_token(b.memory, theirs, target)
    assert ours_by_token.tobytes() == theirs_by_token.tobytes()


@pytest.mark.parametrize(("theirs", "why"), [
    (KVLayout(2, 2, 4, 4, "bfloat16"), "dtype differs"),
    (KVLayout(2, 4, 4, 4, "float32"), "KV heads 0 to 3 are wanted"),
    (KVLayout(3, 2, 4, 4, "float32", AXES), "number of layers differs"),
])
async def test_what_cannot_be_mapped_is_refused_by_name(
    peers: Peers, theirs: KVLayout, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await peers.make("a"), await peers.make("bb", theirs)
    a.outgoing.reach(b.ref)
    await until(lambda: a.as_sender.lost, "the refusal")
    assert why in caplog.text
    assert a.outgoing.get(b.identity) is None


async def test_who_asks_for_an_earlier_life_is_refused_and_disturbs_nothing(
    peers: Peers,
) -> None:
    a, b = await peers.make("a"), await peers.make("bb")
    channel = await open_channel(a, b)
    earlier = WorkerRef(Identity("bb", b.identity.epoch ^ 1), b.ref.peer_address)
    a.outgoing.reach(earlier)
    await until(lambda: a.as_sender.lost == [earlier.identity], "the refusal")
    assert a.outgoing.was_refused(earlier.identity)
    assert not a.outgoing.was_refused(b.identity)
    channel.tell(Ack(key=KEY, operation=1))
    await until(lambda: b.as_receiver.records, "a record on the session that was there")
    assert b.as_receiver.lost == []
    assert a.outgoing.get(b.identity) is channel


async def test_what_is_in_flight_is_bounded_and_the_rest_is_answered_at_the_end(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "MAX_BYTES_IN_FLIGHT", 3 * LAYOUT.block_bytes)
    a, b = await peers.make("a", probes=False), await peers.make("bb", probes=False)
    channel = await open_channel(a, b)
    first, scheme = b.tags.issue(10), Scheme()
    ended: dict[int, Exception | None] = {}
    for index in range(10):
        channel.send_blocks(
            KEY, [index], first + index, scheme, lambda error, i=index: ended.update({i: error}))
    await asyncio.sleep(0)
    assert channel.sends.in_flight_bytes == 3 * LAYOUT.block_bytes
    assert channel.sends.waiting_messages == 7
    received: dict[int, Exception | None] = {}
    for index in range(2):
        b.mover.receive(
            [index], first + index, scheme, lambda error, i=index: received.update({i: error}))
    await until(lambda: len(ended) == 2, "two sends")
    assert channel.sends.waiting_messages == 5
    a.outgoing.drop(b.identity, "for the test")
    await until(lambda: len(ended) == 7, "those that waited")
    assert sorted(i for i, error in ended.items() if error is not None) == [5, 6, 7, 8, 9]
    before = b.memory.copy()
    for index in range(2, 10):
        b.mover.receive(
            [index], first + index, scheme, lambda error, i=index: received.update({i: error}))
    await until(lambda: len(received) == 10, "an answer to every tag")
    await until(lambda: len(ended) == 10, "the sends under way")
    assert not any(received.values())
    assert np.array_equal(b.memory[5:], before[5:]), "answered with zero bytes"
    assert np.array_equal(b.memory[:5], a.memory[:5])


async def test_a_message_that_cannot_be_staged_ends_with_an_error(peers: Peers) -> None:
    a, b = await peers.make("a"), await peers.make("bb", KVLayout(2, 2, 4, 5000, "float32"))
    channel = await open_channel(a, b)
    tag, ended = b.tags.issue(1), []
    channel.send_blocks(KEY, [0], tag, Scheme(9, False), ended.append, Cut(0, 9))
    assert not ended, "never from within the call"
    await until(lambda: ended, "the error")
    assert isinstance(ended[0], ValueError)
    assert channel.sends.in_flight_messages == 0

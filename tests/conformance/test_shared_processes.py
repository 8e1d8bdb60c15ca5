"""Receivers that take from their senders' memory, between real processes: both directions, death,
silence, late receives, peers that do not share, many peers, and nothing left behind."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from transport_peer import SECONDS, PeerProcess, pattern, peer_processes
from transports import Ends, ended, ignore, succeeded, until

from baton.kernels.native.copying import Copier, Job, Rows
from baton.kernels.shared_memory import shared_bytes
from baton.kvtransfer import transport as verbs
from baton.kvtransfer.shared import mappings, wire
from baton.kvtransfer.ucx import UcxTransport
from baton.kvtransfer.ucx import transport as ucx_transport

SIZE = 3 << 20


@pytest.fixture
async def transport() -> AsyncIterator[UcxTransport]:
    ours = UcxTransport()
    yield ours
    await ours.close()


class GatedCopier(Copier):
    """Copies nothing before it is let go: a copy can be caught in the midst of it."""

    name = "gated"

    def __init__(self, inner: Copier) -> None:
        self.inner = inner
        self.held: list[Callable[[], Job]] = []
        self.cancelled: list[Job] = []

    def lane(self) -> Any:
        return self.inner.lane()

    def end_lane(self, lane: Any) -> None:
        self.inner.end_lane(lane)

    def submit(
        self, lane: Any, source: Rows, target: Rows, size: int, on_done: Callable[[], None],
        keep: Any = None,
    ) -> Job:
        self.held.append(lambda: self.inner.submit(lane, source, target, size, on_done, keep))
        return Job(lane, source, target, size, on_done, keep)

    def let_go(self) -> None:
        while self.held:
            self.held.pop(0)()

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job)
        self.held.clear()

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> list[GatedCopier]:
    made: list[GatedCopier] = []
    make = ucx_transport.make_copier

    def gated(loop: Any) -> Copier:
        made.append(GatedCopier(make(loop)))
        return made[-1]

    monkeypatch.setattr(ucx_transport, "make_copier", gated)
    return made


def sends_to_us(
    transport: UcxTransport, peer: PeerProcess, name: str = "peer"
) -> verbs.Inbox:
    """Our inbox for what this peer, which calls us "us", offers."""
    inbox = transport.inbox(name, peer.address)
    answer = peer.ask(do="connect", name="us", address=inbox.address.hex())
    assert inbox.pulls == answer["carriers"].startswith("shared+")
    return inbox


def offers_to(transport: UcxTransport, peer: PeerProcess) -> verbs.Endpoint:
    """Our endpoint to the peer's inbox, which it calls "us"."""
    answer = peer.ask(do="inbox", name="us", sender=transport.address.hex())
    endpoint = transport.connect(bytes.fromhex(answer["address"]), same_host=True)
    assert endpoint.offers == answer["pulls"]
    return endpoint


def shared_pattern(size: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    memory = shared_bytes(size)
    memory[:] = pattern(size, seed)
    return memory


def foreign_mappings() -> int:
    """How many mappings of memory we have that others share, ours among them."""
    return Path("/proc/self/maps").read_text().count("memfd:baton-kv")


@pytest.mark.parametrize("size", [0, 1, 4095, 12 << 10, SIZE])
@pytest.mark.parametrize("late", [False, True])
async def test_bytes_cross_both_ways(transport: UcxTransport, size: int, late: bool) -> None:
    """`late`: the receive is posted after the offer has come."""
    with peer_processes(1) as (peer,):
        inbox, endpoint = sends_to_us(transport, peer), offers_to(transport, peer)
        target = np.zeros(size, np.uint8)
        source = shared_pattern(size, 7) if size else np.zeros(0, np.uint8)
        if late:
            peer.tell(do="offer", name="us", tag=5, size=size)
            told: list[int] = []
            inbox.watch(5, lambda: told.append(5))
            await until(lambda: told, "the offer")
            send = endpoint.offer(source, 7, ignore)
            peer.tell(do="take", name="us", tag=7, size=size)
        else:
            peer.tell(do="take", name="us", tag=7, size=size)
        receive = inbox.take(target, 5, ignore)
        if not late:
            peer.tell(do="offer", name="us", tag=5, size=size)
            send = endpoint.offer(source, 7, ignore)
        await succeeded([receive, send])
        assert np.array_equal(target, pattern(size, 5))
        answers = [await peer.answer_soon() for _ in range(2)]
        assert {"sent": 1, "errors": []} in answers
        checksum = zlib.crc32(pattern(size, 7).tobytes())
        assert {"received": [checksum], "errors": []} in answers
        assert transport.bytes_sent() == {"shared": size, "sysv": 0}


async def test_a_sender_killed_in_the_midst_of_a_copy(
    transport: UcxTransport, gate: list[GatedCopier]
) -> None:
    """Its memory outlives it, so the copy goes to its end; then nothing of it is left."""
    before = foreign_mappings()
    with peer_processes(1) as (peer,):
        inbox = sends_to_us(transport, peer)
        target, never = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
        receive, waiting = inbox.take(target, 5, ignore), inbox.take(never, 50, ignore)
        peer.tell(do="offer", name="us", tag=5, size=SIZE)
        await until(lambda: gate[0].held, "the copy")
        peer.signal(signal.SIGKILL)
        peer.process.wait(SECONDS)
        await until(lambda: not inbox.pulls, "word of its death")
        assert foreign_mappings() == before + 1, "the copy still reads it"
        gate[0].let_go()
        await succeeded([receive])
        assert np.array_equal(target, pattern(SIZE, 5))
        assert foreign_mappings() == before
        inbox.abandon(waiting)
        transport.forget("peer")
        assert not waiting.done


async def test_what_is_abandoned_is_not_written(
    transport: UcxTransport, gate: list[GatedCopier]
) -> None:
    before = foreign_mappings()
    with peer_processes(1) as (peer,):
        inbox = sends_to_us(transport, peer)
        target = np.zeros(SIZE, np.uint8)
        receive = inbox.take(target, 5, ignore)
        peer.tell(do="offer", name="us", tag=5, size=SIZE)
        await until(lambda: gate[0].held, "the copy")
        peer.signal(signal.SIGKILL)
        await until(lambda: not inbox.pulls, "word of its death")
        inbox.abandon(receive)
        inbox.abandon(receive)
        assert len(gate[0].cancelled) == 1
        gate[0].let_go()
        assert foreign_mappings() == before
        assert not receive.done
        assert not target.any()


async def test_a_late_receive_is_abandoned_before_its_turn(transport: UcxTransport) -> None:
    """The offer was there first, so the two would have met on the loop's next turn."""
    with peer_processes(1) as (peer,):
        inbox = sends_to_us(transport, peer)
        told: list[int] = []
        inbox.watch(5, lambda: told.append(5))
        peer.tell(do="offer", name="us", tag=5, size=SIZE)
        await until(lambda: told, "the offer")
        target = np.zeros(SIZE, np.uint8)
        receive = inbox.take(target, 5, ignore)
        inbox.abandon(receive)
        assert (await peer.answer_soon())["errors"] == [], "the sender keeps nothing for it"
        assert not target.any()
        assert not receive.done


async def test_forgetting_a_sender_ends_its_copies(
    transport: UcxTransport, gate: list[GatedCopier]
) -> None:
    before = foreign_mappings()
    with peer_processes(1) as (peer,):
        inbox = sends_to_us(transport, peer)
        receive = inbox.take(np.zeros(SIZE, np.uint8), 5, ignore)
        peer.tell(do="offer", name="us", tag=5, size=SIZE)
        await until(lambda: gate[0].held, "the copy")
        transport.forget("peer")
        assert len(gate[0].cancelled) == 1
        assert foreign_mappings() == before
        assert not receive.done
        # The sender is told, for it keeps the memory for us.
        assert (await peer.answer_soon())["errors"] == ["ConnectionResetError"]


async def test_a_stopped_receiver_holds_up_nobody_else(transport: UcxTransport) -> None:
    with peer_processes(2) as (stopped, other):
        to_stopped, to_other = offers_to(transport, stopped), offers_to(transport, other)
        stopped.tell(do="take", name="us", tag=5, size=SIZE)
        stopped.tell(do="cpu")  # an answer to another question shows that the receive is posted
        stopped.answer()
        stopped.signal(signal.SIGSTOP)
        held = to_stopped.offer(shared_pattern(SIZE, 5), 5, ignore)
        for tag in range(100, 120):
            other.tell(do="take", name="us", tag=tag, size=SIZE)
            await succeeded([to_other.offer(shared_pattern(SIZE, tag), tag, ignore)])
            await other.answer_soon()
        assert not held.done, "nobody has taken it"
        stopped.signal(signal.SIGCONT)
        await succeeded([held])
        checksum = zlib.crc32(pattern(SIZE, 5).tobytes())
        assert await stopped.answer_soon() == {"received": [checksum], "errors": []}


@pytest.mark.parametrize("count", [1, 20000])
async def test_a_receiver_that_dies_stopped(transport: UcxTransport, count: int) -> None:
    """Also with more offers than the kernel keeps for it."""
    with peer_processes(1) as (peer,):
        endpoint = offers_to(transport, peer)
        peer.signal(signal.SIGSTOP)
        memory = shared_pattern(4096, 5)
        sends = [endpoint.offer(memory, 5 + index, ignore) for index in range(count)]
        await until(lambda: True, "a turn of the loop")
        assert not any(each.done for each in sends)
        peer.signal(signal.SIGKILL)
        await ended(sends)
        assert all(isinstance(each.error, ConnectionResetError) for each in sends)
        late = endpoint.offer(memory, 1, ignore)
        await ended([late])
        assert isinstance(late.error, ConnectionResetError)
        endpoint.close()


async def test_zero_bytes_reach_a_receive_wherever_it_waits(transport: UcxTransport) -> None:
    """An abort does not know whether the receive of its tag takes, or waits in UCX."""
    with peer_processes(1) as (peer,):
        endpoint = offers_to(transport, peer)
        inbox = sends_to_us(transport, peer)
        receives = [
            inbox.take(np.zeros(64, np.uint8), 5, ignore),
            inbox.post_receive(np.zeros(64, np.uint8), 6, ignore),
        ]
        answer = await_answer(peer, do="send", name="us", tag=5, size=0, count=2)
        await succeeded(receives)
        assert (await answer())["errors"] == []
        endpoint.close()


def await_answer(peer: PeerProcess, **command: Any) -> Callable[[], Any]:
    peer.tell(**command)
    return peer.answer_soon


async def test_closing_lets_offers_finish(transport: UcxTransport) -> None:
    with peer_processes(1) as (peer,):
        endpoint = offers_to(transport, peer)
        shared = endpoint.offer(shared_pattern(SIZE, 5), 5, ignore)
        plain = endpoint.offer(pattern(SIZE, 6), 6, ignore)
        endpoint.close()
        late = endpoint.offer(shared_pattern(SIZE, 7), 7, ignore)
        await ended([late])
        assert isinstance(late.error, ConnectionAbortedError)
        assert not shared.done
        peer.tell(do="take", name="us", tag=5, size=SIZE, count=2)
        await succeeded([shared, plain])
        wanted = [zlib.crc32(pattern(SIZE, tag).tobytes()) for tag in (5, 6)]
        assert (await peer.answer_soon())["received"] == wanted


async def test_a_peer_that_does_not_share_is_reached_over_ucx(
    transport: UcxTransport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with peer_processes(1, shares="no") as (peer,):
        inbox = sends_to_us(transport, peer)
        assert not inbox.pulls
        (line,) = [each.message for each in caplog.records if "SLOW PATH" in each.message]
        assert "it does not share its memory" in line
        target = np.zeros(SIZE, np.uint8)
        receive = inbox.post_receive(target, 5, ignore)
        peer.tell(do="offer", name="us", tag=5, size=SIZE)
        await succeeded([receive])
        assert np.array_equal(target, pattern(SIZE, 5))
        assert (await peer.answer_soon())["errors"] == []
        endpoint = offers_to(transport, peer)
        assert not endpoint.offers
        peer.tell(do="take", name="us", tag=9, size=SIZE)
        await succeeded([endpoint.offer(shared_pattern(SIZE, 9), 9, ignore)])
        assert (await peer.answer_soon())["errors"] == []


async def test_memory_that_cannot_be_mapped_comes_over_ucx(
    transport: UcxTransport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise OSError("no room in the address space")

    monkeypatch.setattr(mappings, "Mapping", refuse)
    with peer_processes(1) as (peer,):
        inbox = sends_to_us(transport, peer)
        target = np.zeros(SIZE, np.uint8)
        receive = inbox.take(target, 5, ignore)
        peer.tell(do="offer", name="us", tag=5, size=SIZE)
        await succeeded([receive])
        assert np.array_equal(target, pattern(SIZE, 5))
        assert any("no room in the address space" in each.message for each in caplog.records)
        assert (await peer.answer_soon())["errors"] == []


async def test_an_offer_beyond_the_memory_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that is wrong about its own memory takes nobody down with it."""
    pack = wire.pack_offer

    def far(number: int, tag: int, memory: int, start: int, *rest: Any) -> bytes:
        return pack(number, tag, memory, start + (1 << 40), *rest)

    monkeypatch.setattr(wire, "pack_offer", far)
    ends = Ends("shared")
    target = np.zeros(SIZE, np.uint8)
    receive = ends.b.take(target, 5, ignore)
    send = ends.to_b.offer(shared_pattern(SIZE, 5), 5, ignore)
    await succeeded([receive, send])
    assert np.array_equal(target, pattern(SIZE, 5)), "asked for over UCX"
    await ends.close()


async def test_many_peers_at_once(transport: UcxTransport) -> None:
    with peer_processes(4) as peers:
        inboxes = [sends_to_us(transport, peer, f"peer {i}") for i, peer in enumerate(peers)]
        targets = np.zeros((4, 8, 64 << 10), np.uint8)
        receives = [
            inbox.take(targets[who, index], 5 + index, ignore)
            for who, inbox in enumerate(inboxes)
            for index in range(8)
        ]
        for peer in peers:
            peer.tell(do="offer", name="us", tag=5, size=64 << 10, count=8)
        await succeeded(receives)
        for index in range(8):
            wanted = pattern(64 << 10, 5 + index)
            assert all(np.array_equal(targets[who, index], wanted) for who in range(4))


async def test_nothing_is_left_of_peers_that_came_and_went(transport: UcxTransport) -> None:
    async def visit(number: int, kill: bool) -> None:
        with peer_processes(1) as (peer,):
            inbox, endpoint = sends_to_us(transport, peer), offers_to(transport, peer)
            receive = inbox.take(np.zeros(SIZE, np.uint8), 5, ignore)
            peer.tell(do="offer", name="us", tag=5, size=SIZE)
            await succeeded([receive])
            await peer.answer_soon()
            peer.tell(do="take", name="us", tag=6, size=SIZE)
            await succeeded([endpoint.offer(shared_pattern(SIZE, 6), 6, ignore)])
            await peer.answer_soon()
            if kill:
                peer.signal(signal.SIGKILL)
            else:
                peer.ask(do="end")
            peer.process.wait(SECONDS)
            await until(lambda: not inbox.pulls, "word of its end")
            endpoint.close()
            transport.forget("peer")

    def sockets() -> int:
        """Of our kind: UCX has some of its own, and keeps those of an inbox until the exit."""
        found = psutil.Process().net_connections("unix")
        return sum(each.type == socket.SOCK_SEQPACKET for each in found)

    def threads() -> int:
        """But for those of asyncio's pool, which are made when none is known to be idle."""
        return sum(not each.name.startswith("asyncio_") for each in threading.enumerate())

    await visit(0, kill=True)
    gc.collect()
    mapped, before, open_sockets = foreign_mappings(), threads(), sockets()
    for number in range(1, 4):
        await visit(number, kill=number % 2 == 0)
    gc.collect()
    await until(lambda: foreign_mappings() == mapped, "mappings to go")
    assert threads() <= before
    assert sockets() == open_sockets

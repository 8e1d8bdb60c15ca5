"""UCX between real processes: both directions, death, silence, idleness."""

from __future__ import annotations

import signal
import time
import zlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
from transport_peer import SECONDS, PeerProcess, pattern, peer_processes
from transports import ended, ignore, succeeded, until

from baton.kvtransfer.tags import TagIssuer
from baton.kvtransfer.ucx import UcxTransport

SHARED = {"sysv", "posix", "self"}


def checksum(size: int, seed: int) -> int:
    return zlib.crc32(pattern(size, seed).tobytes())


def introduce(a: PeerProcess, b: PeerProcess, same_host: bool = True) -> str:
    """Connect a to b under the name "b", and return the carriers."""
    answer = a.ask(do="connect", name="b", address=b.address.hex(), same_host=same_host)
    return str(answer["carriers"])


@pytest.fixture
async def transport() -> AsyncIterator[UcxTransport]:
    ours = UcxTransport()
    yield ours
    await ours.close()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("same_host", [True, False])
def test_bytes_cross_both_ways(loop: str, same_host: bool) -> None:
    with peer_processes(2, loop) as (a, b):
        carriers = introduce(a, b, same_host)
        b.ask(do="connect", name="b", address=a.address.hex(), same_host=same_host)
        assert (set(carriers.split("+")) <= SHARED) == same_host
        tag = TagIssuer().issue(1000)
        for size, count in ((0, 4), (1, 4), (12 << 10, 200), (360 << 10, 32), (8 << 20, 3)):
            for sender, receiver in ((a, b), (b, a)):
                receiver.tell(do="receive", tag=tag, size=size, count=count)
                answer = sender.ask(do="send", name="b", tag=tag, size=size, count=count)
                assert answer == {"sent": count, "errors": []}
                answer = receiver.answer()
                assert answer["errors"] == []
                assert answer["received"] == [checksum(size, tag + i) for i in range(count)]
                tag += count
        for peer in (a, b):
            peer.ask(do="end")
            assert peer.process.wait(SECONDS) == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_an_idle_process_uses_no_cpu(loop: str) -> None:
    with peer_processes(2, loop) as (a, b):
        introduce(a, b)
        b.tell(do="receive", tag=1, size=1 << 20, count=4)
        a.ask(do="send", name="b", tag=1, size=1 << 20, count=4)
        b.answer()
        # Receives that wait cost nothing either.
        b.ask(do="absorb", tag=100, size=64, count=500)
        before = [peer.ask(do="cpu") for peer in (a, b)]
        # The time that passes is what is measured; there is no condition to wait for.
        time.sleep(1.0)
        after = [peer.ask(do="cpu") for peer in (a, b)]
        for early, late in zip(before, after, strict=True):
            assert (late["cpu"] - early["cpu"]) / (late["wall"] - early["wall"]) < 0.1


@pytest.mark.parametrize("size", [64, 64 << 10, 16 << 20])
async def test_sends_to_a_dead_peer_fail_at_once(transport: UcxTransport, size: int) -> None:
    with peer_processes(1) as (peer,):
        endpoint = transport.connect(peer.address, same_host=True)
        peer.tell(do="absorb", tag=1, size=size, count=50)
        peer.answer()
        buffer = np.zeros(size, np.uint8)
        under_way = [endpoint.post_send(buffer, 1 + i, ignore) for i in range(100)]
        peer.signal(signal.SIGKILL)
        await until(lambda: peer.process.poll() is not None, "the peer's death")
        await ended(under_way)
        later = endpoint.post_send(buffer, 1000, ignore)
        await ended([later])
        assert isinstance(later.error, ConnectionResetError)
        assert all(
            each.error is None or isinstance(each.error, ConnectionResetError) for each in under_way
        )
        endpoint.close()
        with pytest.raises(ConnectionError):
            transport.connect(peer.address, same_host=True)


async def test_a_peer_killed_in_mid_transfer_harms_nobody(transport: UcxTransport) -> None:
    """Each sender writes to an inbox of its own: what one that is killed has left unfinished there
    is in nobody else's way."""
    size, count = 8 << 20, 16
    with peer_processes(2) as (victim, third):
        to_victim = transport.connect(victim.address, same_host=True)
        inbox = transport.inbox("victim")
        victim.ask(do="connect", name="us", address=inbox.address.hex())
        victim.tell(do="absorb", tag=1, size=size, count=count)
        victim.answer()
        buffers = np.zeros((count, size), np.uint8)
        source = np.zeros(size, np.uint8)
        receives = [inbox.post_receive(each, 500 + i, ignore) for i, each in enumerate(buffers)]
        sends = [to_victim.post_send(source, 1 + i, ignore) for i in range(count)]
        victim.tell(do="send", name="us", tag=500, size=size, count=count)
        await until(lambda: any(each.done for each in receives), "the first block")
        victim.signal(signal.SIGKILL)
        await ended(sends)
        victim.process.wait(SECONDS)
        # What the dead peer had not sent stays outstanding, and hurts no one.
        assert all(each.error is None for each in receives)
        to_victim.close()
        transport.forget("victim")

        to_third = transport.connect(third.address, same_host=True)
        inbox = transport.inbox("third")
        third.ask(do="connect", name="us", address=inbox.address.hex())
        tag = TagIssuer().issue(2)
        third.tell(do="receive", tag=tag, size=size)
        await succeeded([to_third.post_send(pattern(size, tag), tag, ignore)])
        assert (await third.answer_soon())["received"] == [checksum(size, tag)]
        received = np.zeros(size, np.uint8)
        receive = inbox.post_receive(received, tag + 1, ignore)
        third.tell(do="send", name="us", tag=tag + 1, size=size)
        await succeeded([receive])
        assert np.array_equal(received, pattern(size, tag + 1))


async def test_a_dead_remote_peer_fails_its_sends(transport: UcxTransport) -> None:
    size = 4 << 20
    with peer_processes(1) as (peer,):
        endpoint = transport.connect(peer.address, same_host=False)
        assert "sysv" not in endpoint.carriers
        tag = TagIssuer().issue(20)
        peer.tell(do="receive", tag=tag, size=size)
        await succeeded([endpoint.post_send(pattern(size, tag), tag, ignore)])
        await peer.answer_soon()
        sends = [endpoint.post_send(np.zeros(size, np.uint8), tag + 1, ignore) for _ in range(4)]
        peer.signal(signal.SIGKILL)
        await ended(sends)
        assert all(isinstance(each.error, ConnectionResetError) for each in sends)
        later = endpoint.post_send(b"", tag + 2, ignore)
        await ended([later])
        assert isinstance(later.error, ConnectionResetError)
        endpoint.close()


@pytest.mark.parametrize("size", [4096, 16 << 20])
def test_a_stopped_peer_keeps_nobody_from_leaving(size: int) -> None:
    """Neither the close nor the exit waits for a peer that does nothing."""
    with peer_processes(2) as (a, stopped):
        introduce(a, stopped)
        stopped.ask(do="absorb", tag=1, size=size, count=2)
        stopped.signal(signal.SIGSTOP)
        a.ask(do="flood", name="b", tag=1, size=size, count=64)
        a.ask(do="absorb", tag=5000, size=size, count=4)
        a.ask(do="end")  # a peer that is stopped would hold it for ever
        assert a.process.wait(SECONDS) == 0
        stopped.signal(signal.SIGCONT)


@pytest.mark.parametrize("size", [64, 64 << 10, 16 << 20])
def test_a_stopped_peer_costs_no_cpu_and_wakes_well(size: int) -> None:
    # More than the shared-memory queue takes.
    count = {64: 1500, 64 << 10: 300}.get(size, 8)
    with peer_processes(2) as (a, stopped):
        introduce(a, stopped)
        stopped.tell(do="receive", tag=1, size=size, count=count)
        # An answer to another question shows that the receives are posted.
        stopped.tell(do="cpu")
        stopped.answer()
        stopped.signal(signal.SIGSTOP)
        a.tell(do="send", name="b", tag=1, size=size, count=count)
        a.ask(do="close_endpoint", name="b")
        before = a.ask(do="cpu")["cpu"]
        # The time that passes is what is measured; there is no condition to wait for.
        time.sleep(1.0)
        spent = a.ask(do="cpu")["cpu"] - before
        stopped.signal(signal.SIGCONT)
        answer = stopped.answer()
        assert answer["received"] == [checksum(size, 1 + i) for i in range(count)]
        assert answer["errors"] == []
        assert spent < 0.3


async def test_leaving_with_work_under_way_does_not_hurt_the_peer(transport: UcxTransport) -> None:
    with peer_processes(1) as (peer,):
        endpoint = transport.connect(peer.address, same_host=True)
        peer.ask(do="connect", name="us", address=transport.address.hex())
        peer.ask(do="flood", name="us", tag=1, size=4 << 20, count=8)
        peer.ask(do="absorb", tag=100, size=4 << 20, count=8)
        peer.ask(do="end")
        assert peer.process.wait(SECONDS) == 0
        late = endpoint.post_send(np.zeros(4 << 20, np.uint8), 100, ignore)
        await ended([late])
        assert isinstance(late.error, ConnectionResetError)
        # Its announcements arrived before it left; the data never will.
        receive = transport.post_receive(np.zeros(4 << 20, np.uint8), 1, ignore)
        await ended([endpoint.post_send(b"", 101, ignore)])
        assert receive.error is None or isinstance(receive.error, OSError)
        endpoint.close()

"""The other side dies in the middle of it: sends end, what was kept is free again, nobody hangs."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from transport_peer import SECONDS, peer_processes
from transports import Bytes, Ends, until

from baton.kvtransfer.memory import blocks_of
from baton.kvtransfer.mover import BlockMover
from baton.kvtransfer.transport import Endpoint, Transport
from baton.kvtransfer.ucx import UcxTransport
from baton.protocol.records import DIRECT, Scheme

SCHEMES = [DIRECT, Scheme(4, False), Scheme(4, True)]
BLOCK_BYTES = 256 << 10
NUM_BLOCKS = 256
"""More than the queue in shared memory holds, which takes 16 MiB."""


def pool() -> Bytes:
    return np.ones((NUM_BLOCKS, BLOCK_BYTES), np.uint8)


class Sending:
    """All blocks on their way to a peer."""

    def __init__(self, transport: Transport, endpoint: Endpoint, scheme: Scheme) -> None:
        self.mover = BlockMover(transport, blocks_of(pool()))
        self.buffers = self.mover.send_buffers(BLOCK_BYTES)
        self.ended: list[Exception | None] = []
        step = scheme.blocks_per_message
        self.count = NUM_BLOCKS // step
        for index in range(self.count):
            blocks = range(index * step, (index + 1) * step)
            self.mover.send(
                endpoint, blocks, 1 + index, scheme, self.ended.append, buffers=self.buffers
            )

    async def check(self) -> None:
        await until(lambda: len(self.ended) == self.count, "all sends to end")
        errors = [error for error in self.ended if error is not None]
        assert errors, "the peer took nothing, so not all can have been sent"
        assert all(isinstance(error, ConnectionError) for error in errors)
        self.buffers.check_integrity()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_sends_to_a_killed_process_end(scheme: Scheme) -> None:
    transport = UcxTransport()
    with peer_processes(1) as (peer,):
        endpoint = transport.connect(peer.address, same_host=True)
        # It takes a few of the messages; the rest finds no receive.
        size = scheme.blocks_per_message * BLOCK_BYTES
        peer.tell(do="absorb", tag=1, size=size, count=3)
        peer.answer()
        sending = Sending(transport, endpoint, scheme)
        await until(lambda: sending.ended, "the first message")
        peer.signal(signal.SIGKILL)
        await sending.check()
    await transport.close()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_sends_to_a_closed_transport_end(scheme: Scheme) -> None:
    ends = Ends("inproc")
    sending = Sending(ends.a, ends.to_b, scheme)
    await ends.b.close()
    await sending.check()
    await ends.a.close()


@pytest.mark.parametrize("trial", range(3))
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_receives_from_a_killed_process_can_be_written_off(
    scheme: Scheme, trial: int
) -> None:
    """Nothing more reaches blocks that were given up, staging buffers go on serving, and messages
    of others still arrive: in an inbox that both shared, they would not, every second time."""
    transport = UcxTransport()
    memory = pool()
    mover = BlockMover(transport, blocks_of(memory))
    step = scheme.blocks_per_message
    ended: list[Exception | None] = []
    with peer_processes(2) as (victim, other):
        from_victim, from_other = transport.inbox("victim"), transport.inbox("other")
        victim.ask(do="connect", name="us", address=from_victim.address.hex())
        landings = {
            tag: mover.receive(
                range(tag * step, (tag + 1) * step), 1 + tag, scheme, ended.append,
                inbox=from_victim)
            for tag in range(NUM_BLOCKS // step)
        }
        # Fewer than were granted, so that some receives are left when it dies.
        victim.tell(do="send", name="us", tag=1, size=step * BLOCK_BYTES, count=6)
        await until(lambda: ended, "the first message")
        victim.signal(signal.SIGKILL)
        victim.process.wait(SECONDS)
        for landing in landings.values():
            assert landing.detach() == scheme.staged
        given_up = memory.copy()
        for landing in landings.values():
            landing.abandon()
        transport.forget("victim")
        transport.forget("victim")
        if scheme.staged:
            mover.landing_buffers.check_integrity()

        other.ask(do="connect", name="us", address=from_other.address.hex())
        fresh: list[Exception | None] = []
        mover.receive(range(step), 1000, scheme, fresh.append, inbox=from_other)
        other.tell(do="send", name="us", tag=1000, size=step * BLOCK_BYTES)
        await until(lambda: fresh, "a message of another peer")
        assert fresh == [None]
        assert np.array_equal(memory[step:], given_up[step:])
        if scheme.staged:
            mover.landing_buffers.check_integrity()
    await transport.close()

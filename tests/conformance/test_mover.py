"""Blocks move by every scheme, on every transport: whole, in part, given up, with zero bytes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from transports import WAYS, Ends, ignore, random_bytes, until

from baton.kvtransfer import mover as mover_module
from baton.kvtransfer.memory import blocks_of
from baton.kvtransfer.mover import BlockMover, Landing
from baton.kvtransfer.tags import TagIssuer
from baton.protocol.records import DIRECT, Scheme

SCHEMES = [DIRECT, Scheme(3), Scheme(1, True), Scheme(3, True)]
SCHEMES += [Scheme(1, pulled=True), Scheme(3, pulled=True)]
POOLS = [(scheme, False) for scheme in SCHEMES]
# A torch tensor of the CPU offers no buffer, from which single blocks go; on a GPU it does.
POOLS += [(s, True) for s in SCHEMES if s.staged or s.blocks_per_message > 1]
NUM_BLOCKS = 32


class Side:
    """One pool and its mover; `ends` counts how operations ended."""

    def __init__(self, ends: Ends, *, sends: bool, block_bytes: int, device: bool) -> None:
        import torch

        self.transport = ends.a if sends else ends.b
        flat = random_bytes(NUM_BLOCKS * block_bytes, 5 if sends else 6)
        self.memory = flat.reshape(NUM_BLOCKS, block_bytes)
        memory = torch.from_numpy(self.memory) if device else self.memory
        self.mover = BlockMover(self.transport, blocks_of(memory))
        self.ended: dict[int, Exception | None] = {}

    def done(self, tag: int):  # type: ignore[no-untyped-def]
        return lambda error: self.ended.__setitem__(tag, error)


class Pair:
    def __init__(self, name: str, block_bytes: int, *, device: bool = False) -> None:
        self.ends = Ends(name)
        self.a = Side(self.ends, sends=True, block_bytes=block_bytes, device=device)
        self.b = Side(self.ends, sends=False, block_bytes=block_bytes, device=device)
        self.buffers = self.a.mover.send_buffers(block_bytes)
        self.tags = TagIssuer()

    def send(self, blocks: list[int], tag: int, scheme: Scheme) -> None:
        self.a.mover.send(
            self.ends.to_b, blocks, tag, scheme, self.a.done(tag), buffers=self.buffers
        )

    def receive(self, blocks: list[int], tag: int, scheme: Scheme) -> Landing:
        return self.b.mover.receive(blocks, tag, scheme, self.b.done(tag))

    async def all_ended(self, tags: list[int]) -> None:
        await until(lambda: all(tag in self.b.ended for tag in tags), "receives to end")
        await until(lambda: all(tag in self.a.ended for tag in tags), "sends to end")
        for side in (self.a, self.b):
            assert not any(side.ended.values()), side.ended
        self.buffers.check_integrity()
        self.b.mover.landing_buffers.check_integrity()


@pytest.fixture(params=WAYS[:-1])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def messages(blocks: list[int], scheme: Scheme) -> list[list[int]]:
    step = scheme.blocks_per_message
    return [blocks[at : at + step] for at in range(0, len(blocks), step)]


@pytest.mark.parametrize(("scheme", "device"), POOLS)
@pytest.mark.parametrize("block_bytes", [96, 12 << 10, 300 << 10])
async def test_blocks_arrive_and_no_other_is_touched(
    name: str, scheme: Scheme, block_bytes: int, device: bool
) -> None:
    """`device`: a pool behind torch, as that of a GPU is, here on the CPU."""
    pair = Pair(name, block_bytes, device=device)
    source = np.random.default_rng(1).permutation(NUM_BLOCKS)[:20].tolist()
    target = np.random.default_rng(2).permutation(NUM_BLOCKS)[:20].tolist()
    before = pair.b.memory.copy()
    ours, theirs = messages(source, scheme), messages(target, scheme)
    first = pair.tags.issue(len(ours))
    for index, blocks in enumerate(theirs):
        pair.receive(blocks, first + index, scheme)
    for index, blocks in enumerate(ours):
        pair.send(blocks, first + index, scheme)
    await pair.all_ended([first + index for index in range(len(ours))])
    assert np.array_equal(pair.b.memory[target], pair.a.memory[source])
    others = sorted(set(range(NUM_BLOCKS)) - set(target))
    assert np.array_equal(pair.b.memory[others], before[others])
    await pair.ends.close()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_zero_bytes_end_a_receive(name: str, scheme: Scheme) -> None:
    pair = Pair(name, 4096)
    tag = pair.tags.issue(1)
    pair.receive([1, 2, 3][: scheme.blocks_per_message], tag, scheme)
    pair.ends.to_b.post_send(b"", tag, ignore)
    await until(lambda: tag in pair.b.ended, "the receive to end")
    assert pair.b.ended == {tag: None}
    pair.b.mover.landing_buffers.check_integrity()
    await pair.ends.close()


def detach_when_posted(pair: Pair, landing: Landing) -> None:
    post_receive = pair.b.transport.post_receive

    def post(*arguments):  # type: ignore[no-untyped-def]
        operation = post_receive(*arguments)
        assert landing.detach()
        return operation

    pair.b.transport.post_receive = post  # type: ignore[method-assign]


@pytest.mark.parametrize("late", [True, False])
async def test_given_up_blocks_stay_as_they_are(name: str, late: bool) -> None:
    """`late`: the message comes after the blocks were given up; else it is landing already."""
    scheme = Scheme(3, True)
    pair = Pair(name, 300 << 10)
    tag = pair.tags.issue(1)
    before = pair.b.memory.copy()
    landing = pair.receive([4, 5, 6], tag, scheme)
    if late:
        assert landing.detach()
        assert landing.detach(), "twice is as good as once"
    else:
        detach_when_posted(pair, landing)
    pair.send([1, 2, 3], tag, scheme)
    await pair.all_ended([tag])
    assert np.array_equal(pair.b.memory, before)
    await pair.ends.close()


async def test_a_direct_receive_cannot_be_detached(name: str) -> None:
    pair = Pair(name, 4096)
    tag = pair.tags.issue(1)
    landing = pair.receive([1, 2], tag, Scheme(2, False))
    assert not landing.detach()
    pair.send([3, 4], tag, Scheme(2, False))
    await pair.all_ended([tag])
    await pair.ends.close()


async def test_buffers_are_bounded_on_both_sides(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mover_module, "RECEIVE_BUFFERS", 2)
    monkeypatch.setattr(mover_module, "SEND_BUFFERS", 2)
    scheme = Scheme(1, True)
    pair = Pair(name, 64 << 10)
    blocks = list(range(NUM_BLOCKS))
    first = pair.tags.issue(NUM_BLOCKS)
    for block in blocks:
        pair.send([block], first + block, scheme)
    assert pair.buffers.waiting == NUM_BLOCKS - 2
    for block in reversed(blocks):
        pair.receive([block], first + block, scheme)
    await pair.all_ended([first + block for block in blocks])
    assert pair.buffers.allocated_bytes == 2 * pair.buffers.size
    landing = pair.b.mover.landing_buffers
    assert 0 < landing.allocated_bytes <= 2 * landing.size
    assert np.array_equal(pair.b.memory, pair.a.memory)
    await pair.ends.close()


async def test_what_is_not_sent_yet_takes_no_buffer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many grants that still compute do not keep out one that is ready."""
    monkeypatch.setattr(mover_module, "RECEIVE_BUFFERS", 1)
    scheme = Scheme(2, True)
    pair = Pair(name, 64 << 10)
    first = pair.tags.issue(10)
    landings = [pair.receive([2 * i, 2 * i + 1], first + i, scheme) for i in range(10)]
    pair.send([0, 1], first + 9, scheme)
    await pair.all_ended([first + 9])
    assert np.array_equal(pair.b.memory[[18, 19]], pair.a.memory[[0, 1]])
    for landing in landings[:9]:
        landing.abandon()
    pair.b.mover.landing_buffers.check_integrity()
    assert list(pair.b.ended) == [first + 9]
    await pair.ends.close()


async def test_a_message_beyond_a_staging_buffer_is_refused(name: str) -> None:
    pair = Pair(name, 360 << 10)
    with pytest.raises(ValueError, match="staging buffer"):
        pair.send([1, 2, 3, 4], 1, Scheme(4, True))
    with pytest.raises(ValueError, match="staging buffer"):
        pair.receive([1, 2, 3, 4], 1, Scheme(4, True))
    await asyncio.sleep(0)
    await pair.ends.close()

"""Messages of scattered memory, and word of messages that arrived: on every transport."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from transports import WAYS, Bytes, Ends, ended, ignore, random_bytes, succeeded, until

from baton.kvtransfer.tags import TagIssuer
from baton.kvtransfer.transport import Rows

EAGER_AND_RENDEZVOUS = [(12 << 10, 7), (12 << 10, 300), (1, 5), (360 << 10, 11)]


@pytest.fixture(params=WAYS)
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    pair = Ends(request.param)
    yield pair
    await pair.close()


def pool(rows: int, width: int, seed: int) -> tuple[Bytes, list[int]]:
    """Random memory, and half of its rows in an order that is not that of memory, two of them
    neighbours."""
    memory = random_bytes(rows * width, seed).reshape(rows, width)
    order = np.random.default_rng(seed).permutation(rows)[: rows // 2].tolist()
    if rows >= 4:
        order[:2] = [1, 2]
        order[2:] = [row for row in order[2:] if row not in (1, 2)]
    return memory, order


@pytest.mark.parametrize(("width", "rows"), EAGER_AND_RENDEZVOUS)
@pytest.mark.parametrize("receive_first", [True, False])
async def test_rows_land_in_rows(
    ends: Ends, width: int, rows: int, receive_first: bool
) -> None:
    tag = TagIssuer().issue(1)
    source, order = pool(2 * rows, width, 1)
    target = np.zeros((2 * rows, width), np.uint8)
    elsewhere = [row ^ 1 for row in order]
    operations = []
    if receive_first:
        operations.append(ends.b.post_receive(Rows(target, elsewhere), tag, ignore))
    operations.append(ends.to_b.post_send(Rows(source, order), tag, ignore))
    if not receive_first:
        operations.append(ends.b.post_receive(Rows(target, elsewhere), tag, ignore))
    await succeeded(operations)
    assert np.array_equal(target[elsewhere], source[order])
    untouched = sorted(set(range(2 * rows)) - set(elsewhere))
    assert not target[untouched].any()


@pytest.mark.parametrize(("width", "rows"), EAGER_AND_RENDEZVOUS)
async def test_rows_and_whole_buffers_meet(ends: Ends, width: int, rows: int) -> None:
    tag = TagIssuer().issue(2)
    memory, order = pool(2 * rows, width, 2)
    size = len(order) * width
    whole, sent = np.zeros(size, np.uint8), random_bytes(size, 3)
    expected = memory[order].copy()
    await succeeded([
        ends.b.post_receive(whole, tag, ignore),
        ends.to_b.post_send(Rows(memory, order), tag, ignore),
    ])
    assert np.array_equal(whole, expected.reshape(-1))
    await succeeded([
        ends.b.post_receive(Rows(memory, order), tag + 1, ignore),
        ends.to_b.post_send(sent, tag + 1, ignore),
    ])
    assert np.array_equal(memory[order].reshape(-1), sent)


@pytest.mark.parametrize("size", [0, 100, 5000])
async def test_shorter_messages_complete_rows(ends: Ends, size: int) -> None:
    tag = TagIssuer().issue(1)
    target = np.zeros((8, 4096), np.uint8)
    sent = random_bytes(size)
    receive = ends.b.post_receive(Rows(target, [6, 1, 3]), tag, ignore)
    await succeeded([receive, ends.to_b.post_send(sent, tag, ignore)])
    assert np.array_equal(target[[6, 1, 3]].reshape(-1)[:size], sent)
    assert not target[[6, 1, 3]].reshape(-1)[size:].any()


async def test_too_long_a_message_fails_rows(ends: Ends) -> None:
    tag = TagIssuer().issue(1)
    target = np.zeros((4, 64), np.uint8)
    receive = ends.b.post_receive(Rows(target, [0, 2]), tag, ignore)
    ends.to_b.post_send(random_bytes(129), tag, ignore)
    await ended([receive])
    assert isinstance(receive.error, OSError)
    assert not target[[1, 3]].any()


async def test_rows_of_a_closed_endpoint_fail(ends: Ends) -> None:
    ends.to_b.close()
    late = ends.to_b.post_send(Rows(np.zeros((2, 8), np.uint8), [0, 1]), 1, ignore)
    assert not late.done
    await ended([late])
    assert isinstance(late.error, ConnectionAbortedError)


def test_what_are_no_rows_is_refused() -> None:
    memory = np.zeros((4, 8), np.uint8)
    for wrong in (memory[:, ::2], memory.astype(np.int8), memory.reshape(-1)):
        with pytest.raises(ValueError, match="rows need"):
            Rows(wrong, [0])
    with pytest.raises(ValueError, match="no rows"):
        Rows(memory, [])
    for outside in ([4], [-1], [0, 9]):
        with pytest.raises(IndexError):
            Rows(memory, outside)


@pytest.mark.parametrize("size", [0, 64, 12 << 10, 8 << 20])
@pytest.mark.parametrize("watch_first", [True, False])
async def test_an_arrival_is_told_once(ends: Ends, size: int, watch_first: bool) -> None:
    tag = TagIssuer().issue(2)
    told: list[int] = []
    sent, received = random_bytes(size), np.zeros(size, np.uint8)
    if watch_first:
        ends.b.watch(tag, lambda: told.append(tag))
        assert not told
    send = ends.to_b.post_send(sent, tag, ignore)
    if not watch_first:
        # Another message shows that the first has come, or has been announced.
        await succeeded([
            ends.to_b.post_send(b"x", tag + 1, ignore),
            ends.b.post_receive(bytearray(1), tag + 1, ignore),
        ])
        ends.b.watch(tag, lambda: told.append(tag))
        assert not told, "never from within the call"
    await until(lambda: told, "word of the arrival")
    await succeeded([ends.b.post_receive(received, tag, ignore), send])
    assert told == [tag]
    assert np.array_equal(sent, received)


async def test_what_is_not_watched_any_more_is_not_told(ends: Ends) -> None:
    tag = TagIssuer().issue(2)
    told: list[int] = []
    ends.b.watch(tag, lambda: told.append(tag))
    ends.b.unwatch(tag)
    ends.b.unwatch(tag)
    ends.b.watch(tag + 1, lambda: told.append(tag + 1))
    for each in (tag, tag + 1):
        ends.to_b.post_send(b"x", each, ignore)
    await until(lambda: told, "word of the second arrival")
    await succeeded([ends.b.post_receive(bytearray(1), each, ignore) for each in (tag, tag + 1)])
    assert told == [tag + 1]

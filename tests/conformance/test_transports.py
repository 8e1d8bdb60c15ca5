"""What every transport must do, whatever moves its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from transports import WAYS, Ends, ended, ignore, random_bytes, succeeded, until

from baton.kvtransfer.registry import TRANSPORTS, create_transport
from baton.kvtransfer.tags import TagIssuer
from baton.kvtransfer.transport import Operation, Transport

SIZES = [0, 1, 7, 4096, 360 << 10, 8 << 20]
LARGE = 8 << 20


@pytest.fixture(params=WAYS)
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    pair = Ends(request.param)
    yield pair
    await pair.close()


@pytest.fixture(params=TRANSPORTS)
async def whole_ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    """Where others than the two may send, too."""
    pair = Ends(request.param)
    yield pair
    await pair.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("receive_first", [True, False])
async def test_message_arrives_whole(ends: Ends, size: int, receive_first: bool) -> None:
    tag = TagIssuer().issue(1)
    sent, received = random_bytes(size), np.zeros(size, np.uint8)
    operations: list[Operation] = []
    if receive_first:
        operations.append(ends.b.post_receive(received, tag, ignore))
    operations.append(ends.to_b.post_send(sent, tag, ignore))
    if not receive_first:
        await asyncio.sleep(0.01)
        operations.append(ends.b.post_receive(received, tag, ignore))
    await succeeded(operations)
    assert np.array_equal(sent, received)
    assert all(each.buffer is None for each in operations)


async def test_both_directions_at_once(ends: Ends) -> None:
    tag = TagIssuer().issue(1)
    size = 1 << 20
    to_b, to_a = random_bytes(size, 1), random_bytes(size, 2)
    at_b, at_a = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    await succeeded(
        [
            ends.b.post_receive(at_b, tag, ignore),
            ends.a.post_receive(at_a, tag, ignore),
            ends.to_b.post_send(to_b, tag, ignore),
            ends.to_a.post_send(to_a, tag, ignore),
        ]
    )
    assert np.array_equal(to_b, at_b)
    assert np.array_equal(to_a, at_a)


async def test_tags_match_out_of_order(ends: Ends) -> None:
    count, size = 64, 12 << 10
    first = TagIssuer().issue(count)
    generator = np.random.default_rng(7)
    received = np.zeros((count, size), np.uint8)
    receive_order = generator.permutation(count)
    operations = []
    for index in receive_order[: count // 2]:
        operations.append(ends.b.post_receive(received[index], first + int(index), ignore))
    for index in generator.permutation(count):
        operations.append(
            ends.to_b.post_send(random_bytes(size, int(index)), first + int(index), ignore)
        )
    for index in receive_order[count // 2 :]:
        operations.append(ends.b.post_receive(received[index], first + int(index), ignore))
    await succeeded(operations)
    for index in range(count):
        assert np.array_equal(received[index], random_bytes(size, index))


@pytest.mark.parametrize("size", [0, 1, 100])
async def test_shorter_message_completes_a_receive(ends: Ends, size: int) -> None:
    tag = TagIssuer().issue(1)
    received = np.full(4096, 9, np.uint8)
    sent = random_bytes(size)
    await succeeded(
        [
            ends.b.post_receive(received, tag, ignore),
            ends.to_b.post_send(sent.tobytes(), tag, ignore),
        ]
    )
    assert np.array_equal(received[:size], sent)
    assert (received[size:] == 9).all()


async def test_too_long_message_fails_the_receive(ends: Ends) -> None:
    tag = TagIssuer().issue(1)
    received = np.zeros(64, np.uint8)
    receive = ends.b.post_receive(received[:32], tag, ignore)
    ends.to_b.post_send(random_bytes(48), tag, ignore)
    await ended([receive])
    assert isinstance(receive.error, OSError)
    assert not received[32:].any()


async def test_large_send_waits_for_its_receive(ends: Ends) -> None:
    tag = TagIssuer().issue(2)
    sent, received = random_bytes(LARGE), np.zeros(LARGE, np.uint8)
    send = ends.to_b.post_send(sent, tag, ignore)
    # What was posted later overtakes it.
    await succeeded(
        [
            ends.b.post_receive(np.zeros(8, np.uint8), tag + 1, ignore),
            ends.to_b.post_send(random_bytes(8), tag + 1, ignore),
        ]
    )
    assert not send.done
    await succeeded([ends.b.post_receive(received, tag, ignore), send])
    assert np.array_equal(sent, received)


async def test_closing_an_endpoint_lets_its_sends_finish(ends: Ends) -> None:
    tag = TagIssuer().issue(1)
    sent, received = random_bytes(LARGE), np.zeros(LARGE, np.uint8)
    send = ends.to_b.post_send(sent, tag, ignore)
    ends.to_b.close()
    ends.to_b.close()
    late = ends.to_b.post_send(b"late", tag, ignore)
    assert not late.done
    await ended([late])
    assert isinstance(late.error, ConnectionError)
    await succeeded([ends.b.post_receive(received, tag, ignore), send])
    assert np.array_equal(sent, received)


async def test_a_thousand_operations(ends: Ends) -> None:
    count, size = 1000, 4096
    first = TagIssuer().issue(count)
    sent = np.random.default_rng(3).integers(0, 256, (count, size), dtype=np.uint8)
    received = np.zeros_like(sent)
    ended_tags: list[int] = []

    def done(operation: Operation) -> None:
        ended_tags.append(1)

    operations = [ends.b.post_receive(received[i], first + i, done) for i in range(count)]
    operations += [ends.to_b.post_send(sent[i], first + i, done) for i in range(count)]
    await succeeded(operations)
    assert len(ended_tags) == 2 * count
    assert np.array_equal(sent, received)


async def test_receives_that_stay_do_not_hold_up_others(ends: Ends) -> None:
    tags = TagIssuer()
    stuck = tags.issue(1000)
    waiting = [ends.b.post_receive(np.zeros(64, np.uint8), stuck + i, ignore) for i in range(1000)]
    size = 64
    for seed in range(50):
        tag = tags.issue(1)
        received = np.zeros(size, np.uint8)
        await succeeded(
            [
                ends.b.post_receive(received, tag, ignore),
                ends.to_b.post_send(random_bytes(size, seed), tag, ignore),
            ]
        )
        assert np.array_equal(received, random_bytes(size, seed))
    # The last of a run completes although none before it does.
    await succeeded([ends.to_b.post_send(b"x", stuck + 999, ignore), waiting[999]])
    assert not any(each.done for each in waiting[:999])


async def test_two_peers_are_served_alike(whole_ends: Ends) -> None:
    ends = whole_ends
    third: Transport = create_transport(ends.a.name)
    to_third = ends.a.connect(third.address, same_host=True)
    count, size = 200, 64 << 10
    first = TagIssuer().issue(count)
    sent = random_bytes(size)
    order: list[str] = []
    operations = []
    for peer, endpoint, name in ((ends.b, ends.to_b, "b"), (third, to_third, "third")):
        for index in range(count):
            operations.append(
                peer.post_receive(
                    np.zeros(size, np.uint8), first + index, lambda _, name=name: order.append(name)
                )
            )
        operations.append(endpoint.post_send(sent, first, ignore))
    for index in range(1, count):
        for endpoint in (ends.to_b, to_third):
            operations.append(endpoint.post_send(sent, first + index, ignore))
    await succeeded(operations)
    # Neither is done before the other is well under way.
    assert order.index("b") < count
    assert order.index("third") < count
    assert "b" in order[-count:]
    assert "third" in order[-count - 50 :]
    await third.close()


async def test_callbacks_never_come_from_a_posting_call(ends: Ends) -> None:
    count = 200
    first = TagIssuer().issue(count)
    inside = False
    finished = 0
    operations: list[Operation] = []

    def post(index: int) -> None:
        nonlocal inside
        assert not inside
        inside = True
        operations.append(ends.to_b.post_send(b"", first + index, done))
        operations.append(ends.b.post_receive(np.zeros(8, np.uint8), first + index, done))
        inside = False

    def done(operation: Operation) -> None:
        nonlocal finished
        assert not inside
        assert operation.done
        finished += 1
        if finished % 2 == 0 and finished // 2 < count:
            post(finished // 2)

    post(0)
    await until(lambda: finished == 2 * count, "the chain of operations")
    assert all(each.error is None for each in operations)


async def test_a_failing_callback_harms_no_other(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    tag = TagIssuer().issue(2)

    def fail(operation: Operation) -> None:
        raise RuntimeError("on purpose")

    ends.b.post_receive(np.zeros(8, np.uint8), tag, fail)
    other = ends.b.post_receive(np.zeros(8, np.uint8), tag + 1, ignore)
    await succeeded(
        [ends.to_b.post_send(b"1", tag, ignore), ends.to_b.post_send(b"2", tag + 1, ignore), other]
    )


async def test_close_with_operations_under_way(whole_ends: Ends) -> None:
    ends = whole_ends
    called: list[Operation] = []
    tags = TagIssuer()
    ends.a.post_receive(np.zeros(64, np.uint8), tags.issue(1), called.append)
    ends.to_b.post_send(np.zeros(LARGE, np.uint8), tags.issue(1), called.append)
    ends.b.post_receive(np.zeros(64, np.uint8), tags.issue(1), called.append)
    async with asyncio.timeout(60):  # some of them never end by themselves
        await ends.a.close()
        await ends.a.close()
    with pytest.raises(ConnectionError):
        ends.a.connect(ends.b.address, same_host=True)
    with pytest.raises(RuntimeError):
        ends.a.post_receive(np.zeros(8, np.uint8), 1, called.append)
    await asyncio.sleep(0.02)
    assert called == []
    # The other side is unharmed.
    third: Transport = create_transport(ends.a.name)
    tag = tags.issue(1)
    await succeeded(
        [
            ends.b.post_receive(np.zeros(8, np.uint8), tag, ignore),
            third.connect(ends.b.address, same_host=True).post_send(b"hi", tag, ignore),
        ]
    )
    await third.close()


@pytest.mark.parametrize("address", [b"", b"junk", b"inproc:0", bytes(200), b"BTNU" + bytes(50)])
async def test_bad_address_is_a_connection_error(ends: Ends, address: bytes) -> None:
    with pytest.raises(ConnectionError):
        ends.a.connect(address, same_host=True)


async def test_damaged_address_is_a_connection_error(ends: Ends) -> None:
    address = bytearray(ends.b.address)
    for cut in (1, len(address) // 2, len(address) - 1):
        with pytest.raises(ConnectionError):
            ends.a.connect(bytes(address[:cut]), same_host=True)
    address[len(address) // 2] ^= 1
    with pytest.raises(ConnectionError):
        ends.a.connect(bytes(address), same_host=True)


async def test_what_is_no_buffer_is_refused(ends: Ends) -> None:
    with pytest.raises(ValueError, match="buffer"):
        ends.to_b.post_send(12, 1, ignore)
    with pytest.raises(ValueError, match="contiguous"):
        ends.to_b.post_send(np.zeros((4, 4), np.uint8)[:, :2], 1, ignore)


async def test_what_was_moved_is_counted(whole_ends: Ends) -> None:
    ends = whole_ends
    count, size = 10, 1000
    first = TagIssuer().issue(count)
    operations = [
        ends.b.post_receive(np.zeros(size, np.uint8), first + i, ignore) for i in range(count)
    ]
    operations += [ends.to_b.post_send(bytes(size), first + i, ignore) for i in range(count)]
    await succeeded(operations)
    assert ends.a.bytes_sent() == {ends.to_b.carriers: count * size}
    assert ends.b.totals.received.operations == count
    assert ends.b.totals.received.bytes == count * size
    assert sum(ends.b.bytes_sent().values()) == 0


def test_tags_are_never_issued_twice() -> None:
    issuer, other = TagIssuer(), TagIssuer()
    first, second = issuer.issue(5), issuer.issue(1)
    assert second == first + 5
    assert second < 1 << 64
    assert first & (1 << 40) - 1 == 0
    assert first >> 40 != other.issue(1) >> 40
    with pytest.raises(ValueError, match="cannot issue"):
        issuer.issue(0)
    with pytest.raises(OverflowError):
        issuer.issue(1 << 40)

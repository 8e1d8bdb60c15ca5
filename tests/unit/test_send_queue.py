"""The send queue: fair, bounded, and in order within a hand-off."""

from __future__ import annotations

import random

from baton.kvtransfer.send_queue import SendQueue


def drain(queue: SendQueue[tuple[str, int]], num_bytes: int) -> list[tuple[str, int]]:
    """What goes out when each message is done before the next is taken."""
    out = []
    while (message := queue.take()) is not None:
        out.append(message)
        queue.done(num_bytes)
    return out


def test_a_late_short_hand_off_is_not_behind_a_long_one() -> None:
    queue: SendQueue[tuple[str, int]] = SendQueue(100, 1)
    for number in range(50):
        queue.put("long", 10, ("long", number))
    assert queue.take() == ("long", 0)
    queue.put("short", 10, ("short", 0))
    queue.done(10)
    order = drain(queue, 10)
    assert order.index(("short", 0)) <= 1
    assert [number for name, number in order if name == "long"] == list(range(1, 50))


def test_turns_are_taken_message_by_message() -> None:
    queue: SendQueue[tuple[str, int]] = SendQueue(1, 1)
    for name in "abc":
        for number in range(3):
            queue.put(name, 1, (name, number))
    assert drain(queue, 1) == [(name, number) for number in range(3) for name in "abc"]


def test_no_more_is_in_flight_than_allowed() -> None:
    queue: SendQueue[int] = SendQueue(100, 3)
    generator = random.Random(1)
    sizes = {number: generator.choice([1, 30, 60, 99, 100, 250]) for number in range(300)}
    for number, size in sizes.items():
        queue.put(generator.randrange(5), size, number)
    flying: list[int] = []
    out: list[int] = []
    while queue.waiting_messages or flying:
        while (number := queue.take()) is not None:
            flying.append(number)
            out.append(number)
        assert flying, "something waits and nothing is under way"
        assert len(flying) == queue.in_flight_messages <= 3
        total = sum(sizes[number] for number in flying)
        assert total == queue.in_flight_bytes
        assert total <= 100 or len(flying) == 1
        assert queue.waiting_bytes == sum(sizes.values()) - sum(sizes[n] for n in out)
        done = flying.pop(generator.randrange(len(flying)))
        queue.done(sizes[done])
    assert sorted(out) == sorted(sizes)


def test_what_is_given_up_is_not_sent() -> None:
    queue: SendQueue[int] = SendQueue(10, 1)
    for number in range(4):
        queue.put(number % 2, 10, number)
    assert queue.take() == 0
    assert sorted(queue.clear()) == [1, 2, 3]
    queue.done(10)
    assert queue.take() is None
    assert (queue.waiting_bytes, queue.waiting_messages, queue.in_flight_bytes) == (0, 0, 0)

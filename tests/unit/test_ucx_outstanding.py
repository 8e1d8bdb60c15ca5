"""Finding completed operations among many."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from baton.kvtransfer.transport import Operation
from baton.kvtransfer.ucx.outstanding import Entry, Outstanding


@dataclass(eq=False)
class FakeRequest:
    completed: bool = False


def operation() -> Operation:
    return Operation(b"", lambda _: None)


def test_heads_are_taken_in_order_and_up_to_the_first_that_waits() -> None:
    outstanding, finished = Outstanding(), deque[Entry]()
    requests = [FakeRequest() for _ in range(6)]
    for index, request in enumerate(requests):
        # Two runs: tags 10, 11, 12 and 20, 21, 22.
        outstanding.add_receive((10, 20)[index // 3] + index % 3, request, operation())
    requests[0].completed = requests[2].completed = requests[3].completed = True
    outstanding.take_heads(finished)
    assert [entry[0] for entry in finished] == [requests[0], requests[3]]
    assert outstanding.count == 4
    outstanding.take_all(finished)
    assert [entry[0] for entry in finished][2:] == [requests[2]]
    assert {id(entry[0]) for entry in outstanding} == {id(requests[i]) for i in (1, 4, 5)}


def test_same_tag_again_is_another_operation() -> None:
    outstanding, finished = Outstanding(), deque[Entry]()
    requests = [FakeRequest(), FakeRequest()]
    for request in requests:
        outstanding.add_receive(7, request, operation())
    requests[1].completed = True
    outstanding.take_heads(finished)
    assert [entry[0] for entry in finished] == [requests[1]]
    assert outstanding.count == 1


def test_a_run_is_given_up_whole() -> None:
    outstanding = Outstanding()
    for _ in range(3):
        outstanding.add_send("peer", FakeRequest(), operation())
    outstanding.add_send("other", FakeRequest(), operation())
    assert outstanding.has("peer")
    assert len(outstanding.take_run("peer")) == 3
    assert outstanding.take_run("peer") == []
    assert not outstanding.has("peer")
    assert outstanding.count == 1


def test_nothing_is_lost_or_reported_twice() -> None:
    generator = random.Random(5)
    outstanding, finished = Outstanding(), deque[Entry]()
    live: list[FakeRequest] = []
    reported: list[Entry] = []
    posted = 0
    next_tag = 0
    for _ in range(3000):
        action = generator.random()
        if action < 0.5:
            request = FakeRequest()
            live.append(request)
            posted += 1
            if generator.random() < 0.5:
                next_tag += 1 if generator.random() < 0.8 else 5
                outstanding.add_receive(next_tag, request, operation())
            else:
                outstanding.add_send(generator.randrange(3), request, operation())
        elif action < 0.8 and live:
            live.pop(generator.randrange(len(live))).completed = True
        elif action < 0.95:
            outstanding.take_heads(finished)
        else:
            outstanding.take_all(finished)
        reported += finished
        assert all(entry[0].completed for entry in finished)
        finished.clear()
        assert outstanding.count == sum(1 for _ in outstanding) == posted - len(reported)
        if action >= 0.95:
            assert outstanding.count == len(live)

"""When workers go: what waits is judged by those that are left, and the queue keeps its bounds."""

from __future__ import annotations

import pytest
from plain_sessions import join, make

from baton.protocol.errors import BatonError
from baton.protocol.records import BlockCounts, Load
from baton.router.dispatcher import Dispatcher
from baton.router.lanes import Lane, Lanes


async def test_what_cannot_be_in_time_any_more_is_told_so_at_once() -> None:
    lane = Lane("interactive", ttft=2.0, itl=0.1, patience=8.0, weight=10.0, firm=False)
    dispatcher = Dispatcher(lanes=Lanes([lane]), max_queue=10_000)
    dead, _ = join(dispatcher, "m0", "mixed"), join(dispatcher, "m1", "mixed")
    flights = []
    for _ in range(400):
        try:
            flights.append(dispatcher.submit(make(max_tokens=1, prompt=range(2000))))
        except BatonError:
            break
    waiting = dispatcher.queue_depth
    assert waiting > 20
    dispatcher.worker_lost(dead, "killed")
    ended = [flight for flight in flights if flight.ended]
    assert len(ended) > waiting / 4, "half of what the workers could do is gone"
    assert {flight.outcome for flight in ended} == {"overloaded"}
    dispatcher.close()


async def test_the_queue_has_bounds_while_there_is_no_worker() -> None:
    dispatcher = Dispatcher(max_queue=4)
    dispatcher.worker_lost(join(dispatcher, "m0", "mixed"), "killed")
    for _ in range(4):
        dispatcher.submit(make())
    with pytest.raises(BatonError, match="are waiting already"):
        dispatcher.submit(make())
    assert dispatcher.queue_depth == 4
    dispatcher.close()


async def test_a_state_that_there_is_none_of_is_not_believed() -> None:
    dispatcher = Dispatcher()
    worker = join(dispatcher, "m0", "mixed")
    dispatcher.on_record(worker, Load(
        role="mixed", state="lost", waiting=0, running=0, handoffs=0, waiting_tokens=0,
        blocks=BlockCounts(free=1, cached=0, active=0, held=0, quarantined=0),
        step_age=0.0, steps=0, preemptions=0,
    ))
    assert worker.state == "ready"
    dispatcher.worker_lost(worker, "killed")
    assert dispatcher.registry.get(worker.identity) is None
    dispatcher.close()

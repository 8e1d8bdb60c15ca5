"""Whether there is a place for a request: what `has_place` says is what `place` does, and what has
begun is not kept from one for anybody's intervals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec
import pytest
from plain_sessions import CURVE, answer, decline, join, make, sent
from scripted_workers import BLOCKS, LOAD, Counts

from baton.protocol.records import Generate, Request, Reserve, Targets
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.policy import Decision, Wait
from baton.router.registry import Worker

FAST = Targets(ttft=2.0, itl=0.020)
"""Intervals that a step of one sequence keeps, and one of many does not."""
STEEP = msgspec.structs.replace(CURVE, decode=4e-3)


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    made = Dispatcher(None, Counts())
    yield made
    made.close()
    assert all(worker.outstanding == 0 for worker in made.registry)


def flight_of(request: Request) -> Flight:
    return Flight(request, 1000, asyncio.get_running_loop().time(), lambda *_: None)


@contextmanager
def not_there(worker: Worker) -> Iterator[None]:
    """It gets nothing for a moment."""
    worker.state = "starting"
    yield
    worker.state = "ready"


def verdicts(dispatcher: Dispatcher, request: Request) -> tuple[bool, Decision | Wait]:
    """Of `has_place` and of `place`, for a flight that is neither queued nor sent."""
    flight, now = flight_of(request), asyncio.get_running_loop().time()
    has = dispatcher._placement.has_place(flight, now)
    placed = dispatcher._placement.place(flight, now)
    dispatcher._placement.release(flight, "enough")
    return has, placed


def streams(dispatcher: Dispatcher, worker: Worker, count: int, **changes: object) -> list[Flight]:
    """So many that decode there, the only worker."""
    flights = []
    for _ in range(count):
        flight = dispatcher.submit(make(**changes))  # type: ignore[arg-type]
        answer(dispatcher, worker, flight)
        flights.append(flight)
    assert all(set(flight.holders) == {worker.identity} for flight in flights)
    return flights


async def test_there_is_no_place_in_the_room_that_lanes_leave(dispatcher: Dispatcher) -> None:
    worker = join(dispatcher, "m0", "mixed", max_running=44)
    streams(dispatcher, worker, 33)
    has, placed = verdicts(dispatcher, make(lane="batch"))
    assert isinstance(placed, Decision)
    assert has  # less than its share by weight runs there
    streams(dispatcher, worker, 4, lane="batch")
    assert verdicts(dispatcher, make(lane="batch")) == (False, Wait.BUSY)
    has, placed = verdicts(dispatcher, make())
    assert isinstance(placed, Decision)
    assert has


async def test_there_is_none_where_it_is_better_to_wait(dispatcher: Dispatcher) -> None:
    worker = join(dispatcher, "m0", "mixed", curve=STEEP)
    streams(dispatcher, worker, 2, targets=FAST)
    assert verdicts(dispatcher, make(targets=FAST)) == (False, Wait.BUSY)


async def test_what_has_begun_waits_for_nobodys_intervals(dispatcher: Dispatcher) -> None:
    worker = join(dispatcher, "m0", "mixed", curve=STEEP)
    streams(dispatcher, worker, 2, targets=FAST)
    has, placed = verdicts(dispatcher, make(targets=FAST, accepted=[7, 7]))
    assert isinstance(placed, Decision)
    assert has


async def test_a_stream_that_found_no_room_elsewhere_goes_on_at_once(
    dispatcher: Dispatcher,
) -> None:
    """Its reader waits for the next token: it had run beside the others before."""
    worker = join(dispatcher, "m0", "mixed", curve=STEEP)
    first, _ = streams(dispatcher, worker, 2, targets=FAST)
    other = join(dispatcher, "m1", "mixed", curve=STEEP)
    with not_there(worker):
        there = set(streams(dispatcher, other, 2, targets=FAST))
    assert other.decoding == there
    decline(dispatcher, worker, first, "busy")
    assert first.begun
    assert not first.trouble.recompute
    assert dispatcher.queue_depth == 0
    assert other.decoding == {*there, first}
    assert len(sent(other, Generate, Reserve)) == 3


async def test_a_drain_takes_nothing_from_its_turn_to_where_it_would_wait(
    dispatcher: Dispatcher,
) -> None:
    """What waits there for its first token stays, until there is a place elsewhere."""
    counts = dispatcher._observer
    assert isinstance(counts, Counts)
    busy = join(dispatcher, "m0", "mixed", curve=STEEP)
    streams(dispatcher, busy, 2, targets=FAST)
    left = join(dispatcher, "m1", "mixed", curve=STEEP)
    with not_there(busy):
        flight = dispatcher.submit(make(targets=FAST))
    assert set(flight.holders) == {left.identity}
    dispatcher.drain("m1")
    assert counts.retries == []
    assert set(flight.holders) == {left.identity}
    free = join(dispatcher, "m2", "mixed", curve=STEEP)
    dispatcher.on_record(free, msgspec.structs.replace(LOAD, blocks=BLOCKS))
    assert counts.retries == ["drained"]
    assert set(flight.holders) == {free.identity}

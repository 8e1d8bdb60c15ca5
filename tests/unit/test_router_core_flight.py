"""A flight accepts exactly the next position of its current attempt."""

from __future__ import annotations

import asyncio

import pytest

from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import Deadlines, Request, TokenDelta
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens, unpack_tokens
from baton.router.flight import Flight, Taken

P, D = Identity("p", 1), Identity("d", 1)


def make(number: int = 0, **deadlines: float) -> Flight:
    request = Request(
        key=RequestKey("r", 0),
        choice=0,
        prompt=pack_tokens([1, 2, 3]),
        sampling=SamplingParams(seed=1, max_tokens=8, prompt_logprobs=0),
        deadlines=Deadlines(**deadlines),
    )
    return Flight(request, number, 0.0, lambda flight, outcome, reason: flight.end(outcome, 0.0))


def delta(position: int, *tokens: int, attempt: int = 0, end: str | None = None) -> TokenDelta:
    return TokenDelta(
        key=RequestKey("r", attempt), position=position, tokens=tokens, finish_reason=end
    )


def test_order_within_one_worker() -> None:
    flight = make()
    flight.holders = {D: "local"}
    assert flight.take(delta(0, 10), 1.0) is Taken.ACCEPTED
    assert flight.take(delta(0, 10), 1.0) is Taken.IGNORED
    assert flight.take(delta(1, 11, 12), 2.0) is Taken.ACCEPTED
    assert flight.take(delta(4, 14), 2.0) is Taken.OUT_OF_ORDER
    assert flight.take(delta(2, 12, 13), 2.0) is Taken.OUT_OF_ORDER
    assert flight.take(delta(3, 13, attempt=1), 2.0) is Taken.IGNORED
    assert flight.take(delta(3, end="length"), 3.0) is Taken.FINISHED
    assert flight.accepted == [10, 11, 12]
    assert (flight.stamps.first_token, flight.stamps.last_token) == (1.0, 2.0)


def test_the_decode_worker_may_be_faster_than_the_first_token() -> None:
    flight = make()
    flight.holders = {P: "prefill", D: "decode"}
    assert flight.take(delta(1, 11), 1.0) is Taken.ACCEPTED
    assert flight.take(delta(2, 12, end="stop"), 1.0) is Taken.ACCEPTED
    assert flight.accepted == []
    assert flight.take(delta(0, 10), 2.0) is Taken.FINISHED
    assert flight.accepted == [10, 11, 12]
    assert flight.finish_reason == "stop"


def test_a_new_attempt_carries_the_accepted_tokens() -> None:
    flight = make()
    flight.holders = {D: "local"}
    flight.take(delta(0, 10, 11), 1.0)
    flight.next_attempt()
    assert flight.key == RequestKey("r", 1)
    assert unpack_tokens(flight.request.accepted) == [10, 11]
    assert flight.request.sampling.prompt_logprobs is None
    assert flight.take(delta(2, 99), 1.0) is Taken.IGNORED
    flight.holders = {D: "local"}
    assert flight.take(delta(2, 12, attempt=1), 1.0) is Taken.ACCEPTED


async def test_events_end_with_the_flight() -> None:
    flight = make()
    flight.take(delta(0, 10), 1.0)

    async def read() -> list[tuple[int, ...]]:
        return [event.tokens async for event in flight.events()]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    flight.take(delta(1, 11, end="length"), 1.0)
    flight.end("length", 1.0)
    assert await reading == [(10,), (11,)]


async def test_events_raise_after_what_was_accepted() -> None:
    flight = make()
    flight.take(delta(0, 10), 1.0)
    flight.end("worker_lost", 1.0, BatonError("worker_lost", "gone"))
    reader = flight.events()
    assert (await anext(reader)).position == 0
    with pytest.raises(BatonError, match="gone"):
        await anext(reader)


def test_cancel_is_idempotent() -> None:
    flight = make()
    flight.cancel("client went away")
    flight.cancel("again")
    flight.finish_early()
    assert flight.outcome == "cancelled"


def test_deadlines() -> None:
    flight = make(first_token=5.0, between_tokens=2.0, total=8.0)
    assert flight.deadline() == (5.0, "no first token within 5 s")
    flight.take(delta(0, 10), 1.0)
    assert flight.deadline()[0] == 3.0
    flight.take(delta(1, 10), 7.0)
    assert flight.deadline() == (8.0, "not complete within 8 s")

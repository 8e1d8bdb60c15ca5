"""A worker that was slow is tried with one request at a time: whatever becomes of that, it is tried
again. And what ends a hand-off, but says nothing of the link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from plain_sessions import admit, answer, decline, join, make, sent

from baton.protocol.records import Prefill, RequestFailed, Reserve, Targets
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.registry import Worker

LONG_AGO = 12.0
"""Seconds: the pause of a circuit is over, what was observed is not forgotten."""


class Pools:
    """Two workers of each role; `p0` and `d0` are first."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher()
        self.workers = {
            name: join(self.dispatcher, name, role)
            for name, role in (
                ("p0", "prefill"), ("p1", "prefill"), ("d0", "decode"), ("d1", "decode")
            )
        }
        self.vitals = self.dispatcher._vitals

    def half_open(self, name: str) -> Worker:
        """This one was slow a while ago, and waits for a request to be tried with."""
        roles = {worker.identity: worker.role for worker in self.workers.values()}
        then = self.now() - LONG_AGO
        for _ in range(8):
            for worker in roles:
                self.vitals.health.latency(
                    worker, 20.0 if worker.node_id == name else 1.0, roles, then
                )
        assert self.to_probe() == name
        return self.workers[name]

    def to_probe(self) -> str | None:
        identity = self.vitals.to_probe(self.now())
        return None if identity is None else identity.node_id

    def probe(self, name: str, targets: Targets | None = None) -> Flight:
        """Sent to that one; nothing else goes there until it is known what became of it."""
        flight = self.dispatcher.submit(make(targets=targets))
        assert name in {identity.node_id for identity in flight.holders}
        assert self.to_probe() is None
        assert self.workers[name].identity in self.vitals.avoided(self.now())
        return flight

    def held_by(self, flight: Flight, part: str) -> Worker:
        (identity,) = [who for who, what in flight.holders.items() if what == part]
        return self.workers[identity.node_id]

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()


@pytest.fixture
async def pools() -> AsyncIterator[Pools]:
    made = Pools()
    yield made
    made.dispatcher.close()
    assert all(worker.outstanding == 0 for worker in made.workers.values())


@pytest.mark.parametrize("reason", ["peer_lost", "busy"])
async def test_a_probe_declined_for_no_fault_of_the_worker_is_followed_by_another(
    pools: Pools, reason: str
) -> None:
    worker = pools.half_open("d0")
    flight = pools.probe("d0")
    decline(pools.dispatcher, worker, flight, reason)
    assert worker.identity not in flight.holders  # it went elsewhere
    assert pools.to_probe() == "d0"
    pools.probe("d0")


async def test_so_is_one_whose_request_was_refused_as_wrong(pools: Pools) -> None:
    worker = pools.half_open("d0")
    flight = pools.probe("d0")
    pools.dispatcher.on_record(worker, RequestFailed(
        key=flight.key, code="context_length_exceeded", message="too long"
    ))
    assert flight.outcome == "context_length_exceeded"
    assert pools.to_probe() == "d0"
    pools.probe("d0")


async def test_so_is_a_patient_prompt_that_was_handed_over(pools: Pools) -> None:
    """When its first token came says nothing: it gives way to others."""
    worker = pools.half_open("p0")
    flight = pools.probe("p0", Targets(ttft=60.0, itl=1.0))
    assert flight.gives_way
    decoder = pools.held_by(flight, "decode")
    answer(pools.dispatcher, worker, flight)
    assert pools.to_probe() is None
    admit(pools.dispatcher, decoder, flight)
    assert set(flight.holders.values()) == {"decode"}  # and goes on there for long
    assert pools.to_probe() == "p0"
    pools.probe("p0")


# -- what says something of the way between two --------------------------------------------------


@pytest.mark.parametrize(("reason", "after", "severed"), [
    ("expired", 3.0, True),  # there was no session between them
    ("expired", 31.0, False),
    ("sender_expired", 31.0, False),
    ("peer_lost", 31.0, True),
])
async def test_a_prompt_that_had_no_turn_before_its_reservation_ended_says_nothing_of_the_link(
    pools: Pools, reason: str, after: float, severed: bool
) -> None:
    flight = pools.dispatcher.submit(make(targets=Targets(ttft=60.0, itl=1.0)))
    prefill, decode = pools.held_by(flight, "prefill"), pools.held_by(flight, "decode")
    assert (len(sent(prefill, Prefill)), len(sent(decode, Reserve))) == (1, 1)
    now = flight.dispatches[-1].at + after
    pools.vitals.failed(flight, reason, now)
    pair = (prefill.identity, decode.identity)
    assert list(pools.vitals.severed(now)) == ([pair] if severed else [])


async def test_one_whose_first_token_came_had_its_turn(pools: Pools) -> None:
    flight = pools.dispatcher.submit(make(targets=Targets(ttft=60.0, itl=1.0)))
    prefill = pools.held_by(flight, "prefill")
    answer(pools.dispatcher, prefill, flight)
    now = flight.dispatches[-1].at + 31.0
    pools.vitals.failed(flight, "expired", now)
    assert len(pools.vitals.severed(now)) == 1

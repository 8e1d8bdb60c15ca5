"""Where a drain moves streams to: not over a link that is cut, nor to who is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from plain_sessions import answer, join, make, sent

from baton.protocol.ids import Identity
from baton.protocol.records import Migrate
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.registry import Worker
from baton.router.severed import PAUSE

FAR = 1000.0
"""Seconds ahead: what was seen then holds for all of the test."""


class Draining:
    """A stream at `source`, which is to leave it for `one` or `two`: these are alike."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher()
        self.source = join(self.dispatcher, "d0", "decode")
        self.flight: Flight = self.dispatcher.submit(make())
        answer(self.dispatcher, self.source, self.flight, 3)
        self.one, self.two = (join(self.dispatcher, name, "decode") for name in ("d1", "d2"))
        self.vitals = self.dispatcher._vitals
        self.then = asyncio.get_running_loop().time() + FAR

    def cut(self, source: Worker, target: Worker) -> None:
        self.vitals._severed.failed((source.identity, target.identity), self.then)

    def left_alone(self, slow: Worker) -> None:
        for _ in range(8):
            for worker in (self.source, self.one, self.two):
                self.vitals.health.latency(
                    worker.identity, 20.0 if worker is slow else 1.0, self.vitals._pool(), self.then
                )
        assert self.vitals.avoided(self.then) == {slow.identity}

    def moved_to(self) -> Identity | None:
        """By a drain that begins now, or goes on."""
        self.dispatcher.drain("d0")
        records = [record for record in sent(self.source, Migrate) if isinstance(record, Migrate)]
        assert len(records) <= 1
        return records[0].decode.identity if records else None


@pytest.fixture
async def draining() -> AsyncIterator[Draining]:
    made = Draining()
    yield made
    made.dispatcher.close()
    assert all(worker.outstanding == 0 for worker in made.dispatcher.registry)


async def test_who_has_tokens_is_not_what_a_link_is_tried_with(draining: Draining) -> None:
    vitals, placement = draining.vitals, draining.dispatcher._placement
    draining.cut(draining.source, draining.one)
    pair, later = (draining.source.identity, draining.one.identity), draining.then + PAUSE + 1.0
    assert not vitals.severed(later), "its pause is over"
    new = Flight(make(), 1000, later, lambda *_: None)
    assert pair not in placement.facts_now(new, later).severed
    assert pair in placement.facts_now(draining.flight, later).severed
    assert not placement.may_move(*pair, later)


async def test_all_is_well(draining: Draining) -> None:
    assert draining.moved_to() == draining.one.identity


async def test_not_over_a_link_that_is_cut(draining: Draining) -> None:
    draining.cut(draining.source, draining.one)
    assert draining.moved_to() == draining.two.identity


async def test_the_other_direction_is_another_matter(draining: Draining) -> None:
    draining.cut(draining.one, draining.source)
    assert draining.moved_to() == draining.one.identity


async def test_it_stays_until_one_link_works(draining: Draining) -> None:
    draining.cut(draining.source, draining.one)
    draining.cut(draining.source, draining.two)
    assert draining.moved_to() is None
    assert set(draining.flight.holders) == {draining.source.identity}
    draining.vitals._severed.worked((draining.source.identity, draining.two.identity))
    assert draining.moved_to() == draining.two.identity


async def test_not_to_who_is_left_alone(draining: Draining) -> None:
    draining.left_alone(draining.one)
    assert draining.moved_to() == draining.two.identity


async def test_it_stays_where_only_such_are_left(draining: Draining) -> None:
    draining.left_alone(draining.one)
    draining.cut(draining.source, draining.two)
    assert draining.moved_to() is None
    assert set(draining.flight.holders) == {draining.source.identity}

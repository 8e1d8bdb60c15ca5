"""Workers that are lost: a life that comes back by another session, and what is kept of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from plain_sessions import join, make, sent

from baton.protocol.cache_events import CacheDump, ResendCache
from baton.protocol.ids import Identity
from baton.router.dispatcher import Dispatcher
from baton.router.registry import SHOW_LOST, Registry


@pytest.fixture
async def dispatcher() -> AsyncIterator[Dispatcher]:
    made = Dispatcher()
    yield made
    made.close()


async def test_a_life_that_joins_again_keeps_its_cache_feed_when_its_first_session_is_reported_lost(
    dispatcher: Dispatcher,
) -> None:
    """As with a router of two listeners: the one it left hears of the end later."""
    first = join(dispatcher, "m0", "mixed")
    second = join(dispatcher, "m0", "mixed", hello=first.hello)
    feed = dispatcher._caches.known._feed
    assert second.identity in feed
    dispatcher.worker_lost(first, "the worker joined again")
    assert dispatcher.registry.get(second.identity) is second
    assert second.state == "ready"
    assert second.identity in feed
    dispatcher._caches.tick(asyncio.get_running_loop().time())
    assert len(sent(second, ResendCache)) == 1
    dispatcher.on_record(second, CacheDump(dump=1, sequence=0, part=0, parts=1, names=b""))
    assert feed.in_step(second.identity)

    dispatcher.worker_lost(second, "gone for good")
    assert second.identity not in feed


async def test_its_circuit_is_not_forgotten_by_that_either(dispatcher: Dispatcher) -> None:
    first = join(dispatcher, "m0", "mixed")
    join(dispatcher, "m0", "mixed", hello=first.hello)
    health, now = dispatcher._vitals.health, asyncio.get_running_loop().time()
    health.latency(first.identity, 5.0, {first.identity: "mixed"}, now)
    dispatcher.worker_lost(first, "the worker joined again")
    assert first.identity in health.circuits(now)


async def test_of_a_lost_worker_no_flight_is_kept(dispatcher: Dispatcher) -> None:
    worker = join(dispatcher, "m0", "mixed")
    flight = dispatcher.submit(make())
    assert worker.backlog.head_work > 0
    assert len(worker.backlog) == len(worker.rush) == worker.outstanding == 1
    dispatcher.worker_lost(worker, "killed")
    assert len(worker.backlog) == len(worker.rush) == worker.outstanding == 0
    assert [view.state for view in dispatcher.worker_views()] == ["lost"]
    flight.cancel("enough")


async def test_the_lost_are_forgotten_though_nobody_looks(dispatcher: Dispatcher) -> None:
    registry: Registry = dispatcher.registry
    workers = [join(dispatcher, f"m{n}", "mixed") for n in range(4)]
    for worker, at in zip(workers, (0.0, 1.0, SHOW_LOST, SHOW_LOST + 0.5), strict=True):
        registry.lose(worker, at)
    assert set(registry._lost) == {"m1", "m2", "m3"}
    assert registry.get(Identity("m0", 1)) is None
    late = join(dispatcher, "m4", "mixed")
    registry.lose(late, 9 * SHOW_LOST)
    assert set(registry._lost) == {"m4"}

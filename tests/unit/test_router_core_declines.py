"""Declined requests: what is tried again, when, and who is thought to be at fault. The router core
with real control sessions and scripted workers (`scripted_workers.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from scripted_workers import LOAD, Cluster, read, serving, until

from baton.protocol.records import Declined, Reserve
from baton.router import budget, severed
from baton.router.health import LEAST

EXPECTED = [100, 101, 102, 103, 104, 105]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving() as made:
        yield made


async def test_a_link_that_is_cut_is_avoided_and_tried_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(severed, "PAUSE", 1000.0)
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    other = await cluster.add("d1", "decode")
    pair = (prefill.identity, decode.identity)
    while not cluster.counts.retries:
        decode.decline = ["expired"]
        assert await read(cluster.submit()) == EXPECTED
    assert cluster.counts.retries == ["expired"]
    vitals, now = cluster.dispatcher._vitals, asyncio.get_running_loop().time()
    assert set(vitals.severed(now)) == {pair}
    seen = len(decode.keys(Reserve))
    for _ in range(4):
        assert await read(cluster.submit()) == EXPECTED
    assert len(decode.keys(Reserve)) == seen
    assert other.keys(Reserve)

    vitals._severed._states[pair].until = 0.0  # the pause is over
    for flight in [cluster.submit() for _ in range(8)]:
        assert await read(flight) == EXPECTED
    assert len(decode.keys(Reserve)) > seen
    assert not vitals._severed._states


async def test_an_answer_that_has_begun_waits_for_no_budget(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut link ends hundreds of hand-offs at once. Two a second would be minutes of silence."""
    monkeypatch.setattr(budget, "LONGEST", 1000.0)
    retries = cluster.dispatcher._retries
    for _ in range(2000):
        retries.budget.take(asyncio.get_running_loop().time())
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    prefill.seal = False
    flight = cluster.submit()
    await until(lambda: len(flight.accepted) == 1)
    prefill.seal = True
    decode.send(Declined(key=flight.key, reason="corrupt"))
    assert await read(flight) == EXPECTED
    assert cluster.counts.retries == ["corrupt"]

    decode.decline = prefill.decline = ["corrupt"]
    waiting = cluster.submit()  # it has not begun
    await until(lambda: cluster.counts.retries == ["corrupt"] * 2)
    assert cluster.dispatcher.queue_depth == 1
    assert not waiting.accepted
    waiting.cancel("enough")


@pytest.mark.parametrize(("reason", "blamed"), [
    ("peer_lost", False), ("expired", False), ("corrupt", True),
])
async def test_who_lost_a_peer_is_not_blamed(
    cluster: Cluster, reason: str, blamed: bool
) -> None:
    await cluster.add("p0", "prefill")
    decode = await cluster.add("d0", "decode")
    decode.decline = [reason] * 3
    assert await read(cluster.submit()) == EXPECTED
    circuit = cluster.dispatcher._vitals.health.circuits(0.0).get(decode.identity)
    assert (circuit is not None and circuit.failures > 0) is blamed


async def test_who_is_left_alone_is_tried_when_that_is_over(cluster: Cluster) -> None:
    worker = await cluster.add("d0", "decode")
    await cluster.add("d1", "decode")
    vitals, wakes = cluster.dispatcher._vitals, cluster.dispatcher._sending._wakes
    flight = cluster.submit()
    await read(flight)
    flight.holders = {worker.identity: "local"}
    before = asyncio.get_running_loop().time()
    for _ in range(LEAST):
        vitals.failed(flight, "corrupt", 100.0)
    assert worker.identity in vitals.avoided(100.0)
    assert any(at > before + 0.5 for at in wakes)


async def test_who_found_no_room_keeps_its_place_until_something_ends(cluster: Cluster) -> None:
    await cluster.add("p0", "prefill")
    decode = await cluster.add("d0", "decode")
    decode.stop_at = 3
    running = cluster.submit()
    await until(lambda: len(running.accepted) == 3)
    decode.decline, decode.stop_at = ["busy"], None
    refused = cluster.submit()
    await until(lambda: cluster.counts.retries == ["busy"])
    younger = cluster.submit()
    assert cluster.dispatcher.queue_depth == 2
    running.cancel("enough")
    assert [await read(flight) for flight in (refused, younger)] == [EXPECTED] * 2
    assert decode.keys(Reserve) == [("r0", 0), ("r1", 0), ("r1", 1), ("r2", 0)]


async def test_a_heartbeat_too_says_that_there_may_be_room(cluster: Cluster) -> None:
    await cluster.add("p0", "prefill")
    decode = await cluster.add("d0", "decode")
    decode.stop_at = 3
    running = cluster.submit()
    await until(lambda: len(running.accepted) == 3)
    decode.decline, decode.stop_at = ["busy"], None
    refused = cluster.submit()
    await until(lambda: cluster.counts.retries == ["busy"])
    assert cluster.dispatcher.queue_depth == 1
    decode.send(msgspec.structs.replace(LOAD, role="decode"))
    assert await read(refused) == EXPECTED
    running.cancel("enough")

"""Draining workers and moving what they decode, with real control sessions and scripted workers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from scripted_workers import BLOCKS, LOAD, Cluster, FakeWorker, read, serving, until

from baton.protocol.errors import BatonError
from baton.protocol.records import (
    Cancel,
    Generate,
    Migrate,
    Parked,
    Reserve,
)
from baton.protocol.tokens import unpack_tokens
from baton.router.drain import MAX_LEAVING
from baton.router.flight import Flight

EXPECTED = [100, 101, 102, 103, 104, 105]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving() as made:
        yield made


async def streams_on(
    cluster: Cluster, worker: FakeWorker, count: int, tokens: int = 3
) -> list[Flight]:
    """So many requests that have told three tokens and stand still on this worker, the only one
    that decodes."""
    worker.stop_at = tokens
    flights = [cluster.submit() for _ in range(count)]
    await until(lambda: all(len(flight.accepted) == tokens for flight in flights))
    return flights


def heartbeat(worker: FakeWorker, **changes: object) -> None:
    worker.send(msgspec.structs.replace(LOAD, role=worker.hello.role, **changes))


def state_of(cluster: Cluster, name: str) -> tuple[str, int]:
    [view] = [view for view in cluster.dispatcher.worker_views() if view.id == name]
    return view.state, view.outstanding


# -- all goes well -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
async def test_draining_moves_all_streams_in_the_same_attempt(
    cluster: Cluster, split: bool
) -> None:
    if split:
        await cluster.add("p0", "prefill")
    first = await cluster.add("d0", "decode")
    flights = await streams_on(cluster, first, 8)
    second = await cluster.add("d1", "decode")
    view = cluster.dispatcher.drain("d0")
    assert view.state == "draining"
    for flight in flights:
        assert await read(flight) == EXPECTED
    keys = [(f"r{n}", 0) for n in range(8)]
    assert sorted(first.keys(Migrate)) == sorted(second.keys(Reserve)) == keys
    moved = [record for record in second.seen if isinstance(record, Reserve)]
    assert [unpack_tokens(record.request.accepted) for record in moved] == [[100, 101]] * 8
    assert {record.prefill.identity for record in moved} == {first.identity}
    assert first.keys(Cancel) == second.keys(Cancel) == []
    assert cluster.counts.migrations == ["moved"] * 8
    assert cluster.counts.retries == []
    assert state_of(cluster, "d0") == ("draining", 0)


async def test_only_a_few_leave_at_a_time(cluster: Cluster) -> None:
    first = await cluster.add("d0", "decode")
    flights = await streams_on(cluster, first, 8)
    second = await cluster.add("d1", "decode")
    first.seal = False
    cluster.dispatcher.drain("d0")
    await until(lambda: len(second.keys(Reserve)) == MAX_LEAVING)
    heartbeat(first)
    heartbeat(second)
    await until(lambda: all(worker.load is not None for worker in cluster.dispatcher.registry))
    assert len(first.keys(Migrate)) == MAX_LEAVING
    first.seal = True
    for key in list(second.reserved):
        second.sealed.add(key)
        second.admit(key)
    for flight in flights:
        assert await read(flight) == EXPECTED
    assert cluster.counts.migrations == ["moved"] * 8


async def test_nothing_new_until_undrained(cluster: Cluster) -> None:
    first, second = await cluster.add("m0", "mixed"), await cluster.add("m1", "mixed")
    cluster.dispatcher.drain("m0")
    for _ in range(4):
        assert await read(cluster.submit()) == EXPECTED
    assert first.keys(Generate) == []
    assert cluster.dispatcher.drain("m0", undo=True).state == "ready"
    cluster.dispatcher.drain("m1")
    assert await read(cluster.submit()) == EXPECTED
    assert len(first.keys(Generate)) == 1
    assert len(second.keys(Generate)) == 4


async def test_a_worker_that_drains_itself_is_emptied_too(cluster: Cluster) -> None:
    first = await cluster.add("m0", "mixed")
    flights = await streams_on(cluster, first, 2)
    second = await cluster.add("m1", "mixed")
    heartbeat(first, state="draining")
    for flight in flights:
        assert await read(flight) == EXPECTED
    assert len(second.keys(Reserve)) == 2


async def test_a_prefill_worker_takes_them_only_when_nobody_else_is_there(
    cluster: Cluster,
) -> None:
    first = await cluster.add("d0", "decode")
    flights = await streams_on(cluster, first, 1)
    prefill = await cluster.add("p0", "prefill")
    cluster.dispatcher.drain("d0")
    assert await read(flights[0]) == EXPECTED
    assert prefill.keys(Reserve) == [("r0", 0)]


async def test_what_waits_for_its_first_token_is_routed_again(cluster: Cluster) -> None:
    first = await cluster.add("m0", "mixed")
    first.stop_at = 0
    flights = [cluster.submit() for _ in range(3)]
    second = await cluster.add("m1", "mixed")
    cluster.dispatcher.drain("m0")
    for flight in flights:
        assert await read(flight) == EXPECTED
    assert first.keys(Migrate) == []
    assert second.keys(Generate) == [("r0", 1), ("r1", 1), ("r2", 1)]
    await until(lambda: len(first.keys(Cancel)) == 3)
    assert cluster.counts.retries == ["drained"] * 3


async def test_a_hand_off_under_way_is_waited_for(cluster: Cluster) -> None:
    """The first token is out, the blocks are not here yet."""
    prefill = await cluster.add("p0", "prefill")
    first = await cluster.add("d0", "decode")
    prefill.seal, first.stop_at = False, 3
    flight = cluster.submit()
    await until(lambda: len(flight.accepted) == 1)
    second = await cluster.add("d1", "decode")
    cluster.dispatcher.drain("d0")
    heartbeat(first)
    first.sealed.add(flight.key)
    first.admit(flight.key)
    assert await read(flight) == EXPECTED
    assert first.keys(Migrate) == second.keys(Reserve) == [("r0", 0)]
    assert cluster.counts.retries == []


# -- no room -------------------------------------------------------------------------------------


async def test_the_only_worker_finishes_what_it_has(cluster: Cluster) -> None:
    worker = await cluster.add("m0", "mixed")
    [flight] = await streams_on(cluster, worker, 1)
    cluster.dispatcher.drain("m0")
    assert not cluster.dispatcher.ready
    heartbeat(worker)
    worker.stop_at = None
    worker.run(flight.request, 3)
    assert await read(flight) == EXPECTED
    assert worker.keys(Migrate) == worker.keys(Cancel) == []


async def test_they_move_when_there_is_room(cluster: Cluster) -> None:
    first = await cluster.add("d0", "decode")
    flights = await streams_on(cluster, first, 2)
    second = await cluster.add("d1", "decode", max_running=1)
    cluster.dispatcher.drain("d0")
    second.stop_at = 4
    await until(lambda: len(flights[0].accepted) == 4)
    assert first.keys(Migrate) == [("r0", 0)]
    second.stop_at = None
    second.run(flights[0].request, 4)
    assert await read(flights[0]) == EXPECTED
    heartbeat(first)
    assert await read(flights[1]) == EXPECTED
    assert first.keys(Migrate) == [("r0", 0), ("r1", 0)]


async def test_nobody_is_moved_to_where_its_blocks_do_not_fit(cluster: Cluster) -> None:
    first = await cluster.add("d0", "decode")
    flights = await streams_on(cluster, first, 1)
    second = await cluster.add("d1", "decode")
    small = msgspec.structs.replace(BLOCKS, free=1, cached=0, quarantined=99)
    heartbeat(second, blocks=small)
    await until(lambda: cluster.dispatcher.registry.get(second.identity).load is not None)  # type: ignore[union-attr]
    cluster.dispatcher.drain("d0")
    assert first.keys(Migrate) == []
    heartbeat(second)
    assert await read(flights[0]) == EXPECTED
    assert first.keys(Migrate) == [("r0", 0)]


async def test_an_older_worker_is_not_asked(cluster: Cluster) -> None:
    first = await cluster.add("d0", "decode")
    [flight] = await streams_on(cluster, first, 1)
    await cluster.add("d1", "decode")
    worker = cluster.dispatcher.registry.get(first.identity)
    assert worker is not None
    worker.session.version = 1
    cluster.dispatcher.drain("d0")
    worker.session.version = 2  # or this test's frames would not be understood
    first.stop_at = None
    first.run(flight.request, 3)
    assert await read(flight) == EXPECTED
    assert first.keys(Migrate) == []


# -- things go wrong -----------------------------------------------------------------------------


async def test_what_does_not_decode_just_then_goes_on_and_is_asked_again(
    cluster: Cluster,
) -> None:
    first = await cluster.add("d0", "decode")
    [flight] = await streams_on(cluster, first, 1)
    second = await cluster.add("d1", "decode")
    first.parks = False
    cluster.dispatcher.drain("d0")
    await until(lambda: cluster.counts.migrations == ["not_running"])
    assert state_of(cluster, "d1") == ("ready", 0)
    first.stop_at = 4
    first.run(flight.request, 3)
    first.parks = True
    heartbeat(first)
    assert await read(flight) == EXPECTED
    assert cluster.counts.migrations == ["not_running", "moved"]
    [moved] = [record for record in second.seen if isinstance(record, Reserve)]
    assert unpack_tokens(moved.request.accepted) == EXPECTED[:3]


async def test_a_target_that_declines_costs_a_retry(cluster: Cluster) -> None:
    first = await cluster.add("d0", "decode")
    [flight] = await streams_on(cluster, first, 1)
    second = await cluster.add("d1", "decode")
    second.decline = ["busy"]
    cluster.dispatcher.drain("d0")
    assert await read(flight) == EXPECTED
    assert cluster.counts.retries == ["busy"]
    assert second.keys(Generate) == [("r0", 1)]
    await until(lambda: first.keys(Cancel) == [("r0", 0)])
    assert cluster.counts.migrations == ["unfinished"]


@pytest.mark.parametrize("victim", ["source", "target"])
@pytest.mark.parametrize("moving", [False, True])
async def test_either_side_lost_on_the_way(cluster: Cluster, victim: str, moving: bool) -> None:
    first = await cluster.add("d0", "decode")
    [flight] = await streams_on(cluster, first, 1)
    second = await cluster.add("d1", "decode")
    first.seal = False
    if not moving:
        first.parks = None
    cluster.dispatcher.drain("d0")
    await until(lambda: (second.keys(Reserve) if moving else first.keys(Migrate)) != [])
    third = await cluster.add("d2", "decode")
    await (first if victim == "source" else second).kill()
    await until(lambda: ("d0" if victim == "source" else "d1") in cluster.counts.gone)
    if not moving and victim == "target":
        first.send(Parked(key=flight.key, parked=True))
    assert await read(flight) == EXPECTED
    other = second.keys(Generate) if victim == "source" else []
    assert [*other, *third.keys(Generate)] == [("r0", 1)]
    if victim == "target":
        await until(lambda: first.keys(Cancel) == [("r0", 0)])


async def test_a_request_that_ends_before_it_is_parked(cluster: Cluster) -> None:
    first = await cluster.add("d0", "decode")
    [flight] = await streams_on(cluster, first, 1)
    second = await cluster.add("d1", "decode")
    first.parks = None
    cluster.dispatcher.drain("d0")
    await until(lambda: first.keys(Migrate) != [])
    first.stop_at = None
    first.run(flight.request, 3)
    first.send(Parked(key=flight.key, parked=False))
    assert await read(flight) == EXPECTED
    heartbeat(first)
    await until(lambda: state_of(cluster, "d0") == ("draining", 0))
    assert second.seen == []
    assert cluster.counts.retries == []


@pytest.mark.parametrize("moving", [False, True])
async def test_cancelled_on_the_way(cluster: Cluster, moving: bool) -> None:
    first = await cluster.add("d0", "decode")
    [flight] = await streams_on(cluster, first, 1)
    second = await cluster.add("d1", "decode")
    first.seal = False
    if not moving:
        first.parks = None
    cluster.dispatcher.drain("d0")
    await until(lambda: (second.keys(Reserve) if moving else first.keys(Migrate)) != [])
    flight.cancel("client gone")
    await until(lambda: first.keys(Cancel) == [("r0", 0)])
    if moving:
        await until(lambda: second.keys(Cancel) == [("r0", 0)])
    first.send(Parked(key=flight.key, parked=True))  # late
    assert await read(cluster.submit()) == EXPECTED
    assert cluster.counts.retries == []


async def test_a_worker_parks_what_nobody_asked_for(cluster: Cluster) -> None:
    """It would stand still for ever: it is computed again."""
    first = await cluster.add("d0", "decode")
    [flight] = await streams_on(cluster, first, 1)
    first.stop_at = None
    first.send(Parked(key=flight.key, parked=True))
    assert await read(flight) == EXPECTED
    assert first.keys(Generate) == [("r0", 0), ("r0", 1)]
    assert first.keys(Cancel) == [("r0", 0)]


async def test_unknown_workers_are_named(cluster: Cluster) -> None:
    with pytest.raises(BatonError, match="d9") as caught:
        cluster.dispatcher.drain("d9")
    assert caught.value.status == 404



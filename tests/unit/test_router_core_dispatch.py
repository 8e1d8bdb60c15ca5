"""The router core with real control sessions and scripted workers (`scripted_workers.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from make_request import make_request
from scripted_workers import FAST, LOAD, MODEL, Cluster, FakeWorker, read, serving, until

from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import (
    Cancel,
    Generate,
    Prefill,
    Reserve,
    Targets,
    TokenBatch,
    TokenDelta,
)
from baton.protocol.tokens import unpack_tokens
from baton.router.accuracy import OutputLengths
from baton.router.candidates import PATIENT
from baton.router.control import RouterControl
from baton.router.deadlines import NO_WORKER_GRACE
from baton.router.flight import Flight
from baton.router.health import Health
from baton.router.history import History
from baton.router.lanes import Lanes, configure
from baton.router.registry import CERTAIN_BLAME


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving() as made:
        yield made


async def error_of(flight: Flight) -> str:
    with pytest.raises(BatonError) as caught:
        await read(flight)
    return caught.value.code


EXPECTED = [100, 101, 102, 103, 104, 105]


async def test_local(cluster: Cluster) -> None:
    worker = await cluster.add("m0", "mixed")
    assert cluster.dispatcher.ready
    assert cluster.dispatcher.model == MODEL
    assert await read(cluster.submit()) == EXPECTED
    assert worker.keys(Cancel) == []
    assert cluster.counts.decisions == [("local", "mixed_worker")]
    assert cluster.counts.finished == ["length"]


@pytest.mark.parametrize(("ttft", "waited", "said"), [
    (60.0, 1.0, 59.0), (60.0, 55.0, PATIENT), (60.0, 99.0, PATIENT), (2.0, 1.5, 0.5),
])
async def test_a_patient_request_is_never_told_to_be_urgent(
    cluster: Cluster, ttft: float, waited: float, said: float
) -> None:
    """However long it has waited: those that are urgent would have to give way to it."""
    worker = await cluster.add("m0", "mixed")
    now = asyncio.get_running_loop().time()
    request = msgspec.structs.replace(make_request("r", [1, 2, 3]), targets=Targets(ttft=ttft))
    flight = Flight(request, 0, now - waited, lambda *_: None)
    cluster.dispatcher._placement.place(flight, now)
    await until(lambda: any(isinstance(record, Generate) for record in worker.seen))
    [generate] = [record for record in worker.seen if isinstance(record, Generate)]
    assert generate.request.due_in == pytest.approx(said)
    cluster.dispatcher._placement.release(flight, "the test is over")


async def test_remote(cluster: Cluster) -> None:
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    flights = [cluster.submit() for _ in range(8)]
    for flight in flights:
        assert await read(flight) == EXPECTED
    assert len(prefill.keys(Prefill)) == len(decode.keys(Reserve)) == 8
    assert prefill.keys(Cancel) == decode.keys(Cancel) == []
    assert cluster.counts.phases == {"transfer": 0.5}
    assert flights[0].stamps.first_token is not None


async def test_a_mistake_in_what_only_learns_loses_no_request(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(OutputLengths, "ended", wrong)
    monkeypatch.setattr(Health, "worked", wrong)
    monkeypatch.setattr(History, "ended", wrong)
    await cluster.add("m0", "mixed")
    assert await read(cluster.submit()) == EXPECTED
    failed = {record.args[0] for record in caplog.records if "goes on" in record.message}
    assert failed == {"Learning.ended", "Vitals.tokens", "Books.ended"}


async def test_a_first_token_that_ends_the_request(cluster: Cluster) -> None:
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    prefill.stop_at = 0
    flight = cluster.submit()
    await until(lambda: prefill.keys(Prefill) != [])
    prefill.send(TokenBatch(deltas=(TokenDelta(
        key=flight.key, position=0, tokens=(7,), finish_reason="stop"),)))
    assert await read(flight) == [7]
    assert prefill.keys(Cancel) == decode.keys(Cancel) == []


async def test_declined_requests_go_elsewhere_and_come_back(cluster: Cluster) -> None:
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    decode.decline = ["busy", "busy"]
    assert await read(cluster.submit()) == EXPECTED
    assert decode.keys(Reserve) == [("r0", 0), ("r0", 1), ("r0", 2)]
    assert ("r0", 0) in prefill.keys(Cancel)
    prefill.decline = ["no_session"]
    assert await read(cluster.submit()) == EXPECTED
    assert cluster.counts.decisions[-1] == ("local", "prefill_excluded")
    assert cluster.counts.retries == ["busy", "busy", "no_session"]


async def test_light_lanes_leave_the_last_quarter_of_a_worker(cluster: Cluster) -> None:
    worker = await cluster.add("m0", "mixed", max_running=4)
    worker.stop_at = 3

    def submit(lane: str, number: int) -> Flight:
        request = make_request(f"{lane}{number}", [1, 2, 3], max_tokens=6)
        return cluster.dispatcher.submit(msgspec.structs.replace(request, lane=lane))

    flights = [submit("batch", number) for number in range(4)]
    await until(lambda: sum(len(flight.accepted) == 3 for flight in flights) == 3)
    assert cluster.dispatcher.queue_depth == 1
    person = submit("interactive", 0)
    await until(lambda: len(person.accepted) == 3)
    assert cluster.dispatcher.queue_depth == 1
    for flight in [*flights, person]:
        flight.cancel("enough")


@pytest.mark.parametrize("firm", [False, True])
async def test_steps_are_foreseen_within_targets_that_somebody_asked_for(
    cluster: Cluster, firm: bool
) -> None:
    if firm:
        cluster.dispatcher.lanes = Lanes(configure(2.0, 0.05))
    worker = await cluster.add("m0", "mixed")
    worker.stop_at = 3
    flight = cluster.submit()
    await until(lambda: len(flight.accepted) == 3)
    [candidate] = cluster.dispatcher.registry.candidates()
    assert candidate.model.itl == (0.05 if firm else None)
    flight.cancel("enough")


async def test_a_worker_lost_in_mid_stream(cluster: Cluster) -> None:
    first = await cluster.add("m0", "mixed")
    first.stop_at = 3
    flights = [cluster.submit() for _ in range(4)]
    await until(lambda: all(len(flight.accepted) == 3 for flight in flights))
    second = await cluster.add("m1", "mixed")
    await first.kill()
    for flight in flights:
        assert await read(flight) == EXPECTED
    resumed = [record.request for record in second.seen if isinstance(record, Generate)]
    assert [unpack_tokens(request.accepted) for request in resumed] == [[100, 101, 102]] * 4
    assert [request.key.attempt for request in resumed] == [1] * 4
    assert [request.key.request_id for request in resumed] == ["r0", "r1", "r2", "r3"]
    states = {view.id: view.state for view in cluster.dispatcher.worker_views()}
    assert states == {"m0": "lost", "m1": "ready"}
    assert cluster.counts.gone == ["m0"]


@pytest.mark.parametrize("victim", ["p0", "d0"])
async def test_either_side_lost_during_the_hand_off(cluster: Cluster, victim: str) -> None:
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    prefill.seal = False
    flight = cluster.submit()
    await until(lambda: len(flight.accepted) == 1 and decode.keys(Reserve) != [])
    lost, left = (prefill, decode) if victim == "p0" else (decode, prefill)
    await lost.kill()
    assert await read(flight) == EXPECTED
    assert left.keys(Cancel) == [("r0", 0)]
    assert left.keys(Generate) == [("r0", 1)]


async def test_workers_that_come_back_alive_do_not_count_as_lost(cluster: Cluster) -> None:
    workers = [await cluster.add(f"m{i}", "mixed") for i in range(2)]
    for worker in workers:
        worker.stop_at = 2
    flight = cluster.submit()
    for cuts in range(4):
        await until(lambda cuts=cuts: flight.key.attempt == cuts and flight.holders != {})
        (holder,) = flight.holders
        cut = cluster.workers[holder].session
        assert cut is not None
        if cuts == 3:
            for worker in workers:
                worker.stop_at = None
        cut.close("cut off")
        await until(lambda w=cluster.workers[holder], cut=cut: w.session is not cut)
    assert await read(flight) == EXPECTED


async def test_two_lost_workers_are_enough(cluster: Cluster) -> None:
    workers = [await cluster.add(f"m{i}", "mixed") for i in range(3)]
    for worker in workers:
        worker.stop_at = 2
    flight = cluster.submit()
    for _ in range(2):
        await until(lambda: flight.holders != {} and len(flight.accepted) == 2)
        (holder,) = flight.holders
        worker = cluster.dispatcher.registry.get(holder)
        assert worker is not None
        await until(lambda worker=worker: worker.blame(flight) == CERTAIN_BLAME)
        await cluster.workers[holder].kill()
        await until(lambda holder=holder: holder not in flight.holders)
    assert await error_of(flight) == "too_many_failures"


async def test_no_worker_left(cluster: Cluster) -> None:
    with pytest.raises(BatonError) as caught:
        cluster.submit()
    assert caught.value.code == "no_worker"
    worker = await cluster.add("m0", "mixed")
    worker.stop_at = 1
    flight = cluster.submit()
    await until(lambda: len(flight.accepted) == 1)
    await worker.kill()
    await until(lambda: len(cluster.dispatcher.registry) == 0)
    later = cluster.submit()
    assert later.timer is not None
    assert later.timer.when() <= asyncio.get_running_loop().time() + NO_WORKER_GRACE
    assert await error_of(flight) == "worker_lost"
    assert await error_of(later) == "no_worker"
    assert not cluster.dispatcher.ready


async def test_a_restarted_worker_takes_its_requests_up_again(cluster: Cluster) -> None:
    old = await cluster.add("m0", "mixed")
    old.stop_at = 2
    flight = cluster.submit()
    await until(lambda: len(flight.accepted) == 2)
    new = await cluster.add("m0", "mixed")
    assert await read(flight) == EXPECTED
    assert new.keys(Generate) == [("r0", 1)]
    (view,) = cluster.dispatcher.worker_views()
    assert (view.epoch, view.state) == (new.identity.epoch, "ready")
    await until(lambda: old.refusals != [])


async def test_a_worker_that_joins_again_at_another_listener(cluster: Cluster) -> None:
    old = await cluster.add("m0", "mixed")
    old.stop_at = 2
    flight = cluster.submit()
    await until(lambda: len(flight.accepted) == 2)
    second = RouterControl(Identity("router", 1), cluster.dispatcher, settings=FAST)
    cluster.address = await second.bind("tcp://127.0.0.1:0")
    await old.kill()
    new = await cluster.add("m0", "mixed")
    assert await read(flight) == EXPECTED
    assert new.keys(Generate) == [("r0", 1)]
    assert [view.state for view in cluster.dispatcher.worker_views()] == ["ready"]
    await new.dialer.close()
    await second.listener.close()


@pytest.mark.parametrize("limit", ["first_token", "between_tokens", "total"])
async def test_deadlines_need_nothing_else_to_happen(cluster: Cluster, limit: str) -> None:
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    prefill.stop_at = 0 if limit == "first_token" else None
    decode.stop_at = 1
    flight = cluster.submit(**{limit: 0.1})
    assert await error_of(flight) == "deadline_exceeded"
    await until(lambda: decode.keys(Cancel) == [("r0", 0)])
    if limit == "first_token":  # it holds nothing of the others any more
        await until(lambda: prefill.keys(Cancel) == [("r0", 0)])


async def test_cancel_and_finish_early(cluster: Cluster) -> None:
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    prefill.seal = False
    first, second = cluster.submit(), cluster.submit()
    await until(lambda: len(prefill.keys(Prefill)) == len(decode.keys(Reserve)) == 2)
    first.cancel("client went away")
    second.finish_early()
    first.cancel("again")
    for worker in (prefill, decode):
        await until(lambda worker=worker: worker.keys(Cancel) == [("r0", 0), ("r1", 0)])
    await read(first)
    assert cluster.counts.finished == ["cancelled", "stop_string"]


async def test_full_workers_full_queue_and_order() -> None:
    cluster = Cluster(max_queue=2)
    cluster.address = await cluster.control.bind("tcp://127.0.0.1:0")
    worker = await cluster.add("m0", "mixed", max_running=1)
    worker.stop_at = 0
    running, *waiting = [cluster.submit() for _ in range(3)]
    assert cluster.dispatcher.queue_depth == 2
    with pytest.raises(BatonError) as caught:
        cluster.submit()
    assert caught.value.code == "queue_full"
    assert caught.value.retry_after
    await until(lambda: worker.keys(Generate) == [("r0", 0)])
    worker.stop_at = None
    running.cancel("enough")
    assert [await read(flight) for flight in waiting] == [EXPECTED] * 2
    assert worker.keys(Generate) == [("r0", 0), ("r1", 0), ("r2", 0)]
    assert cluster.held() == 0
    await worker.dialer.close()
    await cluster.control.close()


async def test_failures_that_another_worker_would_share(cluster: Cluster) -> None:
    worker = await cluster.add("m0", "mixed")
    worker.fail = ["context_length_exceeded"]
    assert await error_of(cluster.submit()) == "context_length_exceeded"
    assert worker.keys(Generate) == [("r0", 0)]


async def test_a_gap_starts_a_new_attempt(cluster: Cluster) -> None:
    worker = await cluster.add("m0", "mixed")
    worker.stop_at = 1
    flight = cluster.submit()
    await until(lambda: len(flight.accepted) == 1)
    worker.stop_at = None
    worker.send(TokenBatch(deltas=(TokenDelta(key=flight.key, position=3, tokens=(1,)),)))
    assert await read(flight) == EXPECTED
    assert worker.keys(Generate) == [("r0", 0), ("r0", 1)]
    assert worker.keys(Cancel) == [("r0", 0)]


async def test_other_models_layouts_and_roles_are_refused_by_name(cluster: Cluster) -> None:
    await cluster.add("m0", "mixed")
    for number, (changes, text) in enumerate([
        ({"model": msgspec.structs.replace(MODEL, fingerprint="g")}, "fingerprint g"),
        ({"layout": KVLayout(2, 2, 8, 16, "bfloat16")}, "the dtype differs: bfloat16"),
        ({"layout": KVLayout(2, 4, 8, 16, "float32")}, "KV heads 0 to 3 are wanted"),
        ({"role": "cook"}, "'cook' is none of prefill, decode, mixed"),
    ]):
        worker = FakeWorker(cluster, f"x{number}", "mixed")
        cluster.workers[worker.identity] = worker
        worker.hello = msgspec.structs.replace(worker.hello, **changes)
        worker.dialer.start()
        await until(lambda worker=worker: worker.refusals != [])
        assert text in worker.refusals[0]
    assert [view.id for view in cluster.dispatcher.worker_views()] == ["m0"]


async def test_another_block_size_is_mapped_and_counted_in_tokens(cluster: Cluster) -> None:
    """The cluster's blocks hold 16 tokens, so 7 blocks of 8 make 3 of them."""
    first = await cluster.add("m0", "mixed")
    small = FakeWorker(cluster, "m1", "mixed")
    cluster.workers[small.identity] = small
    layout = KVLayout(2, 2, 8, 8, "float32", ("kv", "layer", "token", "head", "dim"))
    small.hello = msgspec.structs.replace(small.hello, layout=layout, num_blocks=7)
    small.stop_at = 0
    small.dialer.start()
    await until(lambda: small.session is not None)

    def rooms() -> dict[str, int]:
        candidates = cluster.dispatcher.registry.candidates()
        return {c.identity.node_id: c.available_blocks for c in candidates}

    assert rooms() == {"m0": 100, "m1": 3}
    await first.kill()
    await until(lambda: rooms() == {"m1": 3})
    flight = cluster.submit()  # 20 tokens and the next one take three blocks of 8
    assert rooms() == {"m1": 2}
    flight.cancel("enough seen")
    assert rooms() == {"m1": 3}


async def test_load_reaches_views_and_draining_workers_get_nothing_new(cluster: Cluster) -> None:
    worker = await cluster.add("m0", "mixed")
    worker.send(LOAD)
    await until(lambda: cluster.dispatcher.worker_views()[0].blocks is not None)
    view = cluster.dispatcher.worker_views()[0]
    assert view.blocks == {"free": 100, "cached": 0, "active": 0, "held": 0, "quarantined": 0}
    assert view.heartbeat_age is not None
    msgspec.json.encode(view)
    worker.send(msgspec.structs.replace(LOAD, state="draining"))
    await until(lambda: not cluster.dispatcher.ready)
    with pytest.raises(BatonError, match="no worker"):
        cluster.submit()


async def test_a_role_change_needs_only_a_heartbeat(cluster: Cluster) -> None:
    await cluster.add("d0", "decode")
    worker = await cluster.add("m0", "mixed")
    worker.send(msgspec.structs.replace(LOAD, role="prefill"))
    await until(lambda: any(v.role == "prefill" for v in cluster.dispatcher.worker_views()))
    assert await read(cluster.submit()) == EXPECTED
    assert cluster.counts.decisions == [("remote", "split")]


async def test_shutting_down_ends_everything(cluster: Cluster) -> None:
    worker = await cluster.add("m0", "mixed")
    worker.stop_at = 0
    flight = cluster.submit()
    await until(lambda: worker.keys(Generate) != [])
    await cluster.control.close()
    assert await error_of(flight) == "shutting_down"
    await until(lambda: worker.keys(Cancel) == [("r0", 0)])
    with pytest.raises(BatonError, match="shutting down"):
        cluster.submit()

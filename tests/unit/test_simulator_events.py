"""What is scheduled for the workers of a simulated cluster happens, at its time and no other way
than if it were done by hand; what cannot happen is refused before the run."""

from __future__ import annotations

import pytest
from simulated import arrivals, machine, poisson

from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.simulator.events import DETECTION, Event, Fails, Joins, Slows, in_order
from baton.bench.simulator.trial import identical
from baton.protocol.errors import ConfigError

NOISY = machine(token=1e-4, decode=1e-4, context=1e-8, spread=0.1)
SPLIT = [("prefill", NOISY), ("decode", NOISY), ("decode", NOISY)]


def run_with(events: list[Event], *, fast_forward: bool = False) -> tuple[Cluster, Run]:
    cluster = Cluster(SPLIT, seed=4, fast_forward=fast_forward)
    cluster.schedule(events)
    run = cluster.run(arrivals(poisson(8, 15, seed=1), length=60))
    cluster.loop.run_until(cluster.loop.time() + 5)
    cluster.check_idle()
    return cluster, run


@pytest.mark.parametrize("fast_forward", [False, True])
def test_a_worker_fails_and_is_back(fast_forward: bool) -> None:
    cluster, run = run_with(
        [Fails(at=4.0, worker="decode-1", back_after=3.0)], fast_forward=fast_forward
    )
    assert run.happened == [(4.0, "decode-1", "fails"), (7.0, "decode-1", "back")]
    assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 60)}
    assert run.retries["worker_lost"] >= 1
    worker = cluster.workers["decode-1"]
    assert worker.identity.epoch == 2
    assert worker.engine.work.decoded > 1000


def test_fast_forward_makes_no_difference_to_what_happens() -> None:
    events: list[Event] = [
        Fails(at=3.3, worker="prefill-0", back_after=0.7), Joins(at=4.0, role="decode"),
        Slows(at=5.0, worker="decode-2", factor=2.5), Fails(at=7.7, worker="decode-1"),
        Slows(at=9.0, worker="decode-2", factor=1.0), Fails(at=11.1, worker="decode-3",
                                                            back_after=0.5),
    ]
    one, other = (run_with(events, fast_forward=forward)[1] for forward in (False, True))
    assert sum(work.ahead for work in other.work.values()) > 500
    assert one.retries["worker_lost"] >= 3
    assert identical(one, other)
    assert (one.retries, one.handoffs) == (other.retries, other.handoffs)
    assert one.happened == other.happened


def test_one_that_is_not_back_serves_nothing_more() -> None:
    cluster, run = run_with([Fails(at=4.0, worker="decode-1")])
    assert cluster.workers["decode-1"].dead
    assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 60)}
    whole = run_with([])[1].work["decode-1"].decoded
    assert 0 < run.work["decode-1"].decoded < 0.5 * whole


def test_routers_know_of_a_death_when_it_is_noticed() -> None:
    cluster = Cluster(SPLIT, seed=4)
    cluster.schedule([Fails(at=2.0, worker="decode-1")])
    registry = cluster.dispatchers[0].registry
    cluster.loop.run_until(2.0 + 0.9 * DETECTION)
    assert registry.named("decode-1") is not None
    cluster.loop.run_until(2.0 + 1.1 * DETECTION)
    assert registry.named("decode-1") is None


def test_a_worker_joins_after_its_cold_start_and_may_fail_in_its_turn() -> None:
    cluster = Cluster(SPLIT, seed=4)
    names = cluster.schedule([
        Fails(at=10.0, worker="decode-3", back_after=1.0),
        Joins(at=2.0, role="decode", start_seconds=3.0),
    ])
    assert names == ["decode-3"]
    steps: list[int] = []
    for at in (4.99, 9.0):
        cluster.loop.at(at, lambda: steps.append(cluster.workers["decode-3"].engine.work.steps))
    run = cluster.run(arrivals(poisson(8, 15, seed=1), length=60))
    assert steps[0] == 0 < steps[1]
    assert [(at, what) for at, name, what in run.happened if name == "decode-3"] == [
        (2.0, "asked for"), (5.0, "joined"), (10.0, "fails"), (11.0, "back"),
    ]
    assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 60)}


def test_who_joins_is_made_like_the_first_of_its_role() -> None:
    slower = NOISY.slower(2.0)
    cluster = Cluster([("prefill", NOISY), ("decode", slower)], seed=1)
    cluster.schedule([
        Joins(at=0.1, role="decode"), Joins(at=0.2, role="mixed"),
        Joins(at=0.3, role="mixed", machine=slower),
    ])
    cluster.loop.run_until(1.0)
    machines = [cluster.workers[name].machine for name in ("decode-2", "mixed-3", "mixed-4")]
    assert machines == [slower, NOISY, slower]
    assert len(cluster.dispatchers[0].registry) == 5


def test_a_worker_becomes_slow_and_recovers() -> None:
    cluster = Cluster([("mixed", machine())], seed=1)
    cluster.schedule([
        Slows(at=1.0, worker="mixed-0", factor=3.0), Slows(at=2.5, worker="mixed-0", factor=1.0),
    ])
    run = cluster.run(arrivals([0.1, 1.1, 2.6], length=30))
    before, during, after = (outcome.itl for outcome in run.outcomes)
    assert [before, during, after] == pytest.approx([10e-3, 30e-3, 10e-3], rel=0.02)


@pytest.mark.parametrize(("events", "says"), [
    ([Fails(at=1.0, worker="decode-7")], "no such worker then, only decode-1"),
    ([Fails(at=1.0, worker="decode-2"), Joins(at=2.0, role="decode")], "no such worker then"),
    ([Fails(at=1.0, worker="decode-1"), Fails(at=2.0, worker="decode-1")], "not running"),
    ([Fails(at=1.0, worker="decode-1", back_after=5.0), Slows(at=3.0, worker="decode-1",
                                                              factor=2.0)], "not running"),
    ([Joins(at=1.0, role="decode", start_seconds=9.0), Fails(at=5.0, worker="decode-2")],
     "not running"),
    ([Fails(at=-1.0, worker="decode-1")], "at of -1.0 seconds"),
    ([Fails(at=1.0, worker="decode-1", back_after=0.01)], "before anybody has noticed"),
    ([Joins(at=1.0, role="reader")], "no role reader"),
    ([Joins(at=1.0, role="mixed", start_seconds=float("nan"))], "start_seconds of nan"),
    ([Slows(at=1.0, worker="decode-1", factor=0.0)], "factor of 0.0"),
])
def test_what_cannot_happen_is_refused(events: list[Event], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        in_order(events, ["prefill-0", "decode-1"])

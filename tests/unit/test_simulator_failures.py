"""What goes wrong in a simulated cluster, and what comes back: deaths that are noticed late, new
lives with empty caches, workers that take their time to start, links that many want at once."""

from __future__ import annotations

import pytest
from simulated import arrivals, machine, poisson

from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.workloads.arrival import Arrival
from baton.protocol.ids import RequestKey
from baton.protocol.records import Cancel

NOISY = machine(token=1e-4, decode=1e-4, context=1e-8, spread=0.1)
SPLIT = [("prefill", NOISY), ("decode", NOISY), ("decode", NOISY)]


def finish(cluster: Cluster, load: list[Arrival]) -> Run:
    run = cluster.run(load)
    cluster.loop.run_until(cluster.loop.time() + 5)
    cluster.check_idle()
    return run


@pytest.mark.parametrize("fast_forward", [False, True])
def test_a_worker_that_dies_comes_back_and_serves_again(fast_forward: bool) -> None:
    cluster = Cluster(SPLIT, seed=4, fast_forward=fast_forward)
    before: list[int] = []
    cluster.loop.at(4.0, lambda: before.append(cluster.workers["decode-1"].engine.work.decoded))
    cluster.loop.at(4.0, cluster.kill, "decode-1")
    cluster.loop.at(6.0, lambda: cluster.restart("decode-1", seconds=1.0))
    run = finish(cluster, list(arrivals(poisson(8, 15, seed=1), length=60)))
    assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 60)}
    worker = cluster.workers["decode-1"]
    assert worker.identity.epoch == 2
    # The new life decodes its share, and the work of both counts.
    assert worker.engine.work.decoded > 1000
    assert run.work["decode-1"].decoded > worker.engine.work.decoded + before[0] // 2


def test_a_worker_comes_back_with_an_empty_cache() -> None:
    def cached(killed: bool) -> list[int]:
        cluster = Cluster([("mixed", NOISY)], seed=4)
        if killed:
            cluster.loop.at(5.0, cluster.kill, "mixed-0")
            cluster.loop.at(6.0, cluster.restart, "mixed-0")
        one = next(arrivals([0.1], prompt=640))
        again = [Arrival(at, one.prompt, 20, 1000, 5) for at in (4.0, 10.0, 14.0)]
        return [outcome.cached for outcome in finish(cluster, [one, *again]).outcomes]

    assert cached(killed=False) == [0, 624, 624, 624]
    assert cached(killed=True) == [0, 624, 0, 624]


def test_a_death_that_is_noticed_late_costs_that_much() -> None:
    def longest(noticed: float) -> float:
        cluster = Cluster([("mixed", machine())] * 2, seed=4)

        def kill_who_has_it() -> None:
            has_it = next(name for name, worker in cluster.workers.items()
                          if worker.engine.scheduler.load().running)
            cluster.kill(has_it, noticed=noticed)

        cluster.loop.at(1.5, kill_who_has_it)
        run = finish(cluster, list(arrivals([1.0], length=100)))
        assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 100)}
        assert run.retries["worker_lost"] == 1
        return max(o.last or 0.0 for o in run.outcomes)

    assert longest(3.0) - longest(0.0) == pytest.approx(3.0, abs=0.05)


def test_a_record_to_the_dead_is_not_acknowledged() -> None:
    cluster = Cluster([("mixed", machine())], seed=4)
    cluster.loop.run_until(0.5)
    session = cluster._sessions["mixed-0"][0]
    cluster.kill("mixed-0", noticed=2.0)
    number = session.send(Cancel(key=RequestKey("nobody", 0), reason="test"))
    cluster.loop.run_until(1.0)
    assert session.is_open
    assert not session.has_acknowledged(number)
    cluster.loop.run_until(3.0)
    assert not session.is_open


def test_a_worker_that_is_added_serves_once_it_has_started() -> None:
    cluster = Cluster([("mixed", NOISY)], seed=4)
    names: list[str] = []
    cluster.loop.at(2.0, lambda: names.append(cluster.start("mixed", NOISY, seconds=3.0)))
    counts: list[int] = []
    for at in (4.9, 12.0):
        cluster.loop.at(at, lambda: counts.append(cluster.workers["mixed-1"].engine.work.steps))
    run = finish(cluster, list(arrivals(poisson(10, 10, seed=1), length=60)))
    assert names == ["mixed-1"]
    assert counts[0] == 0 < counts[1]
    assert {o.end for o in run.outcomes} == {"stop"}


def test_killed_before_it_had_started() -> None:
    cluster = Cluster([("mixed", NOISY)], seed=4)
    cluster.start("mixed", NOISY, seconds=3.0)
    cluster.loop.at(1.0, cluster.kill, "mixed-1")
    run = finish(cluster, list(arrivals(poisson(5, 6, seed=1), length=20)))
    assert {o.end for o in run.outcomes} == {"stop"}
    assert len(cluster.dispatchers[0].registry) == 1


def test_what_reaches_one_worker_shares_its_link() -> None:
    """Three prompts that are computed at the same time on three workers, for one that decodes."""
    def gaps(prefills: int) -> list[float]:
        slow = machine(byte=5e-8, num_blocks=4000)
        roles = ["prefill"] * prefills + ["decode"]
        cluster = Cluster([(role, slow) for role in roles], seed=1)
        run = finish(cluster, list(arrivals([0.1] * prefills, prompt=500, length=5)))
        return sorted(o.longest_gap for o in run.outcomes)

    block_bytes = machine().layout.block_bytes
    seconds = 5e-8 * 32 * block_bytes
    alone, together = gaps(1), gaps(3)
    assert alone[0] == pytest.approx(seconds, rel=0.3)
    assert together[-1] - together[0] == pytest.approx(2 * seconds, rel=0.1)


def test_short_prompts_at_a_fast_worker_are_no_sign_of_slowness() -> None:
    """A first token of 5 ms of work comes after 30 ms where others share its step: what is beside
    the work of a prompt counts, too, or the only prefill worker is called slow."""
    fast = machine(base=7.4e-3, token=1.7e-5, decode=1e-5, context=1e-8, spread=0.02)
    cluster = Cluster([("prefill", fast), ("decode", fast)], seed=1)
    run = cluster.run(arrivals(poisson(130, 3, seed=2), prompt=225, length=3))
    assert len(run.outcomes) > 300
    assert run.circuits == []

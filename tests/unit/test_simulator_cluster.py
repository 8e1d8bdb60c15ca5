"""The simulated cluster: the same each time, true to queueing theory and to its curves, and
everything given back at the end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from simulated import arrivals, machine, poisson

from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.simulator.session import LATENCY
from baton.bench.simulator.worker import SimulatedWorker
from baton.bench.workloads.arrival import output_tokens
from baton.engine.cache_log import CacheChange
from baton.engine.commands import Event, StepCompleted
from baton.protocol.ids import RequestKey
from baton.protocol.records import Cancel, SetRole

NOISY = machine(token=1e-4, decode=1e-4, context=1e-8, spread=0.1)


def run_noisy(seed: int, roles: tuple[str, ...] = ("prefill", "decode", "decode")) -> Run:
    cluster = Cluster([(role, NOISY) for role in roles], seed=seed, keep_log=True)
    run = cluster.run(arrivals(poisson(8, 10, seed=1), length=30))
    cluster.loop.run_until(cluster.loop.time() + 5)
    cluster.check_idle()
    return run


def test_two_runs_of_one_seed_give_the_same_log() -> None:
    first, again, other = run_noisy(1), run_noisy(1), run_noisy(2)
    assert len(first.log) > 1000
    assert first.log == again.log
    assert first.outcomes == again.outcomes
    assert first.log != other.log


def test_ordinary_tokens_are_told_as_the_worker_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a way of their own that is shorter: with the worker's all is the same."""
    def the_long_way(
        worker: SimulatedWorker, events: Sequence[Event], cache: Sequence[CacheChange]
    ) -> None:
        load = worker.engine.scheduler.load()
        worker._io.on_step(StepCompleted(tuple(events), load, None, tuple(cache)))

    short = run_noisy(1)
    monkeypatch.setattr(SimulatedWorker, "_on_events", the_long_way)
    long = run_noisy(1)
    assert len(short.log) > 1000
    assert short.log == long.log
    assert short.outcomes == long.outcomes


@pytest.mark.parametrize(
    "roles", [("prefill", "decode", "decode"), ("mixed", "mixed"), ("prefill", "prefill")]
)
def test_all_requests_are_served_whole_and_nothing_is_left(roles: tuple[str, ...]) -> None:
    run = run_noisy(3, roles)
    assert len(run.outcomes) > 50
    assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 30)}


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_a_prefill_only_load_waits_as_an_m_d_1_queue(load: float) -> None:
    service = 60e-3
    # A prompt fills a step, so they are served one by one.
    one_each = machine(
        base=0.0, token=service / 16, max_running=8, max_batch_tokens=16, prefill_chunk=16
    )
    cluster = Cluster([("prefill", one_each)], seed=1)
    rate = load / service
    run = cluster.run(arrivals(poisson(rate, 2_500 / rate, seed=3), prompt=16, length=1))
    ttft = [o.ttft for o in run.outcomes if o.ttft is not None]
    assert len(ttft) == len(run.outcomes) > 2_000
    measured = sum(ttft) / len(ttft) - 2 * LATENCY
    # What this very sample of arrivals gives; and of a long one, what the mean over all samples is.
    assert measured == pytest.approx(_lindley([o.at for o in run.outcomes], service), rel=0.005)
    theory = service + rate * service**2 / (2 * (1 - load))
    long = _lindley(list(poisson(rate, 200_000 / rate, seed=3)), service)
    assert long == pytest.approx(theory, rel=0.01)


def _lindley(times: list[float], service: float) -> float:
    free = total = 0.0
    for at in sorted(times):
        free = max(free, at) + service
        total += free - at
    return total / len(times)


def test_a_batch_of_decodes_follows_the_curve() -> None:
    exact = machine(base=5e-3, decode=1e-3, context=2e-7)
    cluster = Cluster([("mixed", exact)], seed=1)
    count, prompt, length = 16, 512, 400
    run = cluster.run(arrivals([0.01] * count, prompt=prompt, length=length))
    mean_context = prompt + length / 2
    expected = exact.curve.base + count * (1e-3 + 2e-7 * mean_context)
    itl = sorted(o.itl for o in run.outcomes if o.itl is not None)
    assert len(itl) == count
    assert itl[count // 2] == pytest.approx(expected, rel=0.05)
    assert run.gaps.quantile(0.5) == pytest.approx(expected, rel=0.05)


def test_a_slow_link_delays_the_second_token_and_not_the_first() -> None:
    def run(byte: float) -> Run:
        cluster = Cluster([("prefill", machine(byte=byte)), ("decode", machine(byte=byte))], seed=1)
        return cluster.run(arrivals([0.1], prompt=500, length=5))

    fast, slow = run(0.0), run(1e-6)
    block_bytes = machine().layout.block_bytes
    seconds = 1e-6 * 32 * block_bytes  # 500 tokens are 32 blocks
    assert slow.outcomes[0].ttft == pytest.approx(fast.outcomes[0].ttft)
    assert slow.outcomes[0].longest_gap - fast.outcomes[0].longest_gap == pytest.approx(
        seconds, rel=0.02
    )


def test_later_chunks_hide_the_transfer_of_earlier_ones() -> None:
    def gap(prefill_chunk: int) -> float:
        slow = machine(byte=4e-8, prefill_chunk=prefill_chunk, max_batch_tokens=2048, token=1e-4)
        cluster = Cluster([("prefill", slow), ("decode", slow)], seed=1)
        return cluster.run(arrivals([0.1], prompt=2048, length=5)).outcomes[0].longest_gap

    whole, chunked = gap(2048), gap(256)
    sent = 4e-8 * 128 * machine().layout.block_bytes
    assert whole > sent
    assert chunked < whole - 0.5 * sent


def test_a_killed_worker_costs_no_request() -> None:
    cluster = Cluster([("prefill", NOISY), ("decode", NOISY), ("decode", NOISY)], seed=4)
    cluster.loop.call_later(5.0, cluster.kill, "decode-1")
    run = cluster.run(arrivals(poisson(8, 10, seed=1), length=60))
    cluster.loop.run_until(cluster.loop.time() + 5)
    cluster.check_idle()
    assert run.retries["worker_lost"] >= 2
    assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 60)}


def test_a_drained_worker_is_emptied_by_moving_what_it_decodes() -> None:
    cluster = Cluster([("prefill", NOISY), ("decode", NOISY), ("decode", NOISY)], seed=4)
    cluster.loop.call_later(5.0, cluster.dispatchers[0].drain, "decode-1")
    cluster.loop.call_later(6.0, lambda: held.append(
        cluster.workers["decode-1"].engine.scheduler.load().running
    ))
    held: list[int] = []
    run = cluster.run(arrivals(poisson(8, 10, seed=1), length=400))
    cluster.loop.run_until(cluster.loop.time() + 5)
    cluster.check_idle()
    assert held == [0]
    assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 400)}


def test_a_worker_drained_at_one_router_is_emptied_and_left_alone_by_all() -> None:
    cluster = Cluster(
        [("prefill", NOISY), ("decode", NOISY), ("decode", NOISY)], seed=4, routers=2
    )
    worker, (first, second) = cluster.workers["decode-1"], cluster.dispatchers
    running: dict[float, int] = {}
    states: dict[float, set[str]] = {}

    def look() -> None:
        now = round(cluster.loop.time(), 1)
        running[now] = worker.engine.scheduler.load().running
        states[now] = {
            view.state for each in cluster.dispatchers for view in each.worker_views()
            if view.id == "decode-1"
        }

    cluster.loop.call_later(5.0, first.drain, "decode-1")
    cluster.loop.call_later(8.0, lambda: second.drain("decode-1", undo=True))
    for at in (4.9, 6.0, 7.9, 9.5):
        cluster.loop.call_later(at, look)
    run = cluster.run(arrivals(poisson(8, 12, seed=1), length=400))
    cluster.loop.run_until(cluster.loop.time() + 5)
    cluster.check_idle()
    assert running[4.9] > 0
    assert running[6.0] == running[7.9] == 0
    assert running[9.5] > 0
    assert states == {4.9: {"ready"}, 6.0: {"draining"}, 7.9: {"draining"}, 9.5: {"ready"}}
    assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 400)}


def test_a_cancelled_request_leaves_nothing() -> None:
    cluster = Cluster([("prefill", NOISY), ("decode", NOISY)], seed=4)
    for number in range(60):  # at every stage of its life
        name = f"r{number + 1}"
        cluster.loop.call_later(0.2 + 0.013 * number, lambda name=name: [
            flight.cancel("test") for flight in cluster.dispatchers[0]._flights.copy().values()
            if flight.key.request_id == name
        ])
    cluster.run(arrivals([0.2] * 60, length=20))
    cluster.loop.run_until(cluster.loop.time() + 5)
    cluster.check_idle()


def test_a_prompt_that_another_worker_has_is_fetched_from_there() -> None:
    """The decode worker has the conversation so far, the prefill worker its first prompt."""
    cluster = Cluster([("prefill", NOISY), ("decode", NOISY)], seed=4)
    first = next(iter(arrivals([0.1], prompt=640, length=320)))
    second = type(first)(20.0, lambda: first.prompt() + output_tokens(first), 10, 1000, 7)
    run = cluster.run([first, second])
    cluster.loop.run_until(cluster.loop.time() + 5)
    cluster.check_idle()
    again = run.outcomes[1]
    assert again.prompt == 640 + 319
    assert again.cached >= 900


def test_a_role_is_set_and_an_older_term_is_refused() -> None:
    cluster = Cluster([("prefill", NOISY), ("decode", NOISY)], seed=4)
    worker = cluster.workers["prefill-0"]
    cluster.loop.run_until(1.0)
    entry = cluster.dispatchers[0].registry.named("prefill-0")
    assert entry is not None
    entry.send(SetRole(role="decode", term=3))
    entry.send(SetRole(role="mixed", term=2))
    entry.send(Cancel(key=RequestKey("unknown", 0), reason="test"))
    cluster.loop.run_until(2.0)
    assert worker.role == worker.engine.scheduler.role == entry.role == "decode"
    assert [role for _, role in worker.role_changes] == ["decode"]


def test_a_slow_worker_is_slow() -> None:
    cluster = Cluster([("mixed", machine())], seed=1)
    cluster.loop.call_later(0.05, cluster.slow, "mixed-0", 3.0)
    run = cluster.run(arrivals([0.1], length=50))
    assert run.outcomes[0].itl == pytest.approx(30e-3, rel=0.02)

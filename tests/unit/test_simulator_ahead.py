"""Fast-forward: the same requests get the same tokens at the same times, in fewer events."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from simulated import arrivals, machine, poisson

from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.noise import Noise
from baton.bench.simulator.trial import disagreement, identical
from baton.bench.workloads.arrival import Arrival, output_tokens, request_of
from baton.engine.scripted import plain_tokens, script_seed, scripted_token, scripted_tokens
from baton.protocol.records import Record, Targets, TokenBatch
from baton.router.registry import Worker
from baton.router.vitals import STRETCH

EXACT = machine(token=2e-5, decode=1e-4, context=1e-8)
NOISY = machine(token=1e-4, decode=1e-4, context=1e-8, spread=0.1)
TARGETS = Targets(ttft=0.5, itl=0.05)
SPLIT = ("prefill", "decode", "decode")


def both(
    roles: tuple[str, ...],
    made_of: Machine,
    load: Callable[[], list[Arrival]],
    prepare: Callable[[Cluster], None] = lambda cluster: None,
    **options: Any,
) -> tuple[Run, Run]:
    """(step by step, fast-forward)"""
    runs = []
    for fast_forward in (False, True):
        cluster = Cluster(
            [(role, made_of) for role in roles], seed=1, fast_forward=fast_forward, **options
        )
        prepare(cluster)
        runs.append(cluster.run(load()))
        cluster.loop.run_until(cluster.loop.time() + 5)
        cluster.check_idle()
    return runs[0], runs[1]


def check_same(steps: Run, ahead: Run, *, least: float = 0.5) -> None:
    """`least`: of all steps, those that were taken many at once."""
    assert steps.outcomes == ahead.outcomes
    assert identical(steps, ahead)
    assert steps.retries == ahead.retries
    for name, work in steps.work.items():
        other = ahead.work[name]
        assert (work.steps, work.decoded, work.prompt_tokens) == (
            other.steps, other.decoded, other.prompt_tokens
        )
        assert work.busy == pytest.approx(other.busy)
        assert work.ahead == 0
    taken = sum(work.ahead for work in ahead.work.values())
    assert taken >= least * sum(work.steps for work in ahead.work.values())


def mixed_load(seed: int, count: int = 50) -> list[Arrival]:
    """Prompts that share beginnings, answers of all lengths, some conversations that go on."""
    rng = Random(seed)
    found: list[Arrival] = []
    for number, at in enumerate(poisson(5, count / 5, seed=seed)):
        single = next(arrivals(
            [at], prompt=rng.choice([40, 400, 900]), length=rng.choice([2, 9, 60, 300]),
            seed=number % 7, targets=TARGETS if number % 2 else None,
        ))
        found.append(single)
        if number % 5 == 0:
            found.append(Arrival(
                at + 4.0, lambda a=single: a.prompt() + output_tokens(a), 30, 1000, number,
                targets=TARGETS,
            ))
    return sorted(found, key=lambda arrival: arrival.at)


@pytest.mark.parametrize("made_of", [EXACT, NOISY], ids=["exact", "noisy"])
@pytest.mark.parametrize("roles", [("mixed",), ("mixed", "mixed"), SPLIT], ids=len)
@pytest.mark.parametrize("seed", [1, 2])
def test_it_does_the_same_at_the_same_times(
    roles: tuple[str, ...], made_of: Machine, seed: int
) -> None:
    steps, ahead = both(roles, made_of, lambda: mixed_load(seed))
    assert len(steps.outcomes) > 40
    check_same(steps, ahead)
    assert ahead.events < 0.75 * steps.events
    assert max(disagreement(steps, ahead).values()) == 0.0


def test_it_does_so_where_sequences_are_preempted() -> None:
    small = machine(token=1e-4, decode=1e-4, spread=0.1, num_blocks=120)
    preempted = []

    def prepare(cluster: Cluster) -> None:
        cluster.loop.at(12.0, lambda: preempted.append(
            cluster.workers["mixed-0"].engine.scheduler.load().preemptions
        ))

    steps, ahead = both(
        ("mixed",), small, lambda: list(arrivals(poisson(6, 10, seed=1), length=300)), prepare
    )
    check_same(steps, ahead, least=0.3)
    assert preempted[0] == preempted[1] > 3


def test_it_does_so_whatever_comes_between() -> None:
    """A death, a slow worker, a drain, a cancel and a new role, each in the midst of decoding."""
    def prepare(cluster: Cluster) -> None:
        dispatcher = cluster.dispatchers[0]
        loop = cluster.loop
        loop.at(3.01, cluster.slow, "decode-2", 5.0)  # so much that its circuit opens
        loop.at(4.03, cluster.kill, "decode-1")
        loop.at(5.02, cluster.show)
        loop.at(5.02, lambda: [
            flight.cancel("test") for flight in list(dispatcher._flights.values())[:2]
        ])
        loop.at(6.04, dispatcher.drain, "decode-2")

    steps, ahead = both(
        (*SPLIT, "decode"), NOISY, lambda: list(arrivals(poisson(8, 10, seed=1), length=200)),
        prepare,
    )
    check_same(steps, ahead)
    assert steps.retries["worker_lost"] >= 2
    assert any(is_open and name == "decode-2" for _, name, is_open in steps.circuits)
    assert {o.end for o in steps.outcomes} == {"stop", "cancelled"}


def test_it_does_so_with_several_routers_and_roles_that_change() -> None:
    steps, ahead = both(
        ("mixed", "mixed", "mixed"), NOISY, lambda: mixed_load(4, 100), sizing=True
    )
    check_same(steps, ahead)
    steps, ahead = both(("mixed", "mixed"), NOISY, lambda: mixed_load(5), routers=2)
    check_same(steps, ahead)


def test_workers_that_learn_go_step_by_step() -> None:
    cluster = Cluster([("mixed", NOISY)], seed=1, learn=True, fast_forward=True)
    run = cluster.run(arrivals([0.1], length=50))
    assert run.work["mixed-0"].ahead == 0
    assert run.work["mixed-0"].steps >= 50


def test_noise_is_the_same_however_it_is_taken() -> None:
    one, many = Noise(0.1, 7), Noise(0.1, 7)
    rng = Random(1)
    for _ in range(200):
        count = rng.randrange(1, 40)
        back = rng.randrange(count)
        taken = many.take(count)
        assert isinstance(taken, np.ndarray)
        many.put_back(back)
        assert [one.next() for _ in range(count - back)] == taken[: count - back].tolist()
        assert one.next() == many.next()
    assert Noise(0.0, 7).take(5) == Noise(0.0, 7).next() == 1.0


def test_what_happened_before_is_dated_back() -> None:
    loop, seen = SimulatedLoop(), []

    def make_up() -> None:
        with loop.as_of(1.0):
            seen.append(loop.time())
            loop.call_later(0.5, lambda: seen.append(("due", loop.time())))
            loop.call_later(4.0, lambda: seen.append(("later", loop.time())))
        seen.append(loop.time())

    loop.at(2.0, make_up)
    loop.run_until(10.0)
    assert seen == [1.0, 2.0, ("due", 2.0), ("later", 5.0)]


def test_scripted_tokens_of_many_positions() -> None:
    arrival = next(arrivals([0.0], length=30))


    request = request_of(arrival, "r", b"")
    assert request.sampling.seed == script_seed(30, arrival.noise)
    assert plain_tokens(request, 4) == 25
    assert scripted_tokens(request, 4, 25) == [scripted_token(request, n) for n in range(4, 29)]
    assert scripted_token(request, 29) == request.eos_token_ids[0]


def test_the_router_sees_the_tokens_that_it_judges_workers_by() -> None:
    """Every STRETCH-th of an attempt is the last that it is told at a time, at the time it came."""
    def judged(fast_forward: bool) -> list[tuple[float, str, int]]:
        cluster = Cluster([("mixed", NOISY)], seed=1, fast_forward=fast_forward)
        dispatcher, found = cluster.dispatchers[0], []
        take = dispatcher.on_record

        def on_record(worker: Worker, record: Record) -> None:
            take(worker, record)
            if isinstance(record, TokenBatch):
                for delta in record.deltas:
                    count = delta.position + len(delta.tokens)
                    if count % STRETCH == 0:
                        found.append((cluster.loop.time(), delta.key.request_id, count))

        dispatcher.on_record = on_record  # type: ignore[method-assign]
        cluster.run(arrivals(poisson(4, 5, seed=1), length=90))
        return sorted(found)

    assert len(judged(False)) > 150
    assert judged(True) == judged(False)

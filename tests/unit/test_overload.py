"""More load than there is room for, in simulated time with the real router and scheduler: what is
refused is refused at once, what is taken is served in time, batch work is in nobody's way."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random

import pytest
from simulated import machine

from baton.bench.quantiles import quantile
from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.simulator.outcome import Outcome, attainment, window
from baton.bench.simulator.session import SimulatedSession
from baton.bench.workloads.arrival import Arrival
from baton.protocol.errors import BatonError
from baton.protocol.records import Declined, Generate, Prefill, Record, Reserve, Targets
from baton.protocol.tokens import pack_tokens
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.lanes import Lane, Lanes, configure

TTFT, ITL = 1.0, 0.06
MACHINE = machine(base=15e-3, token=1.6e-4, decode=1e-4, context=2e-7, spread=0.05)
SPLIT = ("prefill", "prefill", "decode", "decode")
FIRST = (Generate, Prefill, Reserve)
"""What a worker first hears of a request."""


def lanes() -> tuple[Lane, ...]:
    return configure(TTFT, ITL)


def load(
    rates: list[tuple[float, float]], seed: int, *, prompt: int = 1500, length: int = 20,
    lane: str = "interactive",
) -> list[Arrival]:
    """`rates`: (until second, requests per second), one after the other. Lengths vary."""
    rand, at = Random(seed), 0.0
    targets = {lane.name: lane.targets for lane in lanes()}[lane]
    found: list[Arrival] = []
    for until, rate in rates:
        while rate and (at := at + rand.expovariate(rate)) < until:
            found.append(_arrival(rand, at, prompt, length, lane, targets))
        at = until
    return found


def _arrival(
    rand: Random, at: float, prompt: int, length: int, lane: str, targets: Targets
) -> Arrival:
    tokens = max(16, min(6000, int(prompt * rand.lognormvariate(0, 0.5))))
    output = max(16, min(1000, int(rand.expovariate(1 / length))))
    noise = rand.getrandbits(32)

    def packed() -> bytes:
        return pack_tokens(Random(noise).choices(range(1000), k=tokens))

    return Arrival(
        at, packed, output, 4 * length, noise, lane=lane, targets=targets
    )


def run(
    roles: tuple[str, ...], arrivals: list[Arrival], *, seed: int = 1,
    before: Callable[[Cluster], None] = lambda cluster: None,
) -> tuple[Cluster, Run]:
    cluster = Cluster(
        [(role, MACHINE) for role in roles], seed=seed,
        dispatcher=lambda observer: Dispatcher(None, observer, lanes=Lanes(lanes())),
    )
    before(cluster)
    outcome = cluster.run(sorted(arrivals, key=lambda arrival: arrival.at))
    cluster.check_idle()
    return cluster, outcome


def of(outcomes: list[Outcome], lane: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.lane == lane]


# -- three times as much as can be served ----------------------------------------------------

BURST = (10.0, 40.0)
CAPACITY = 8.0
"""Requests per second that the workers can serve, about."""


@cache
def at_load(rate: float) -> float:
    """Goodput, requests per second."""
    _, done = run(SPLIT, load([(20.0, rate)], 3))
    return sum(outcome.attained for outcome in done.outcomes) / 20.0


def test_goodput_at_three_times_the_load_is_that_of_the_best_load() -> None:
    best = max(at_load(factor * CAPACITY) for factor in (0.8, 1.3))
    assert at_load(3 * CAPACITY) >= 0.9 * best
    assert best > 0.6 * CAPACITY


def test_a_burst_is_refused_at_once_and_is_over_when_it_ends() -> None:
    """Also: who is refused is told when to come again, and who is taken is served in time."""
    depths: dict[float, int] = {}
    told: list[BatonError] = []

    def watch(cluster: Cluster) -> None:
        (dispatcher,) = cluster.dispatchers
        submit = dispatcher.submit

        def noted(*args: object, **named: object) -> object:
            try:
                return submit(*args, **named)  # type: ignore[arg-type]
            except BatonError as error:
                told.append(error)
                raise

        dispatcher.submit = noted  # type: ignore[method-assign, assignment]
        for second in (*BURST, BURST[1] + 5.0):
            cluster.loop.at(second, lambda s=second: depths.update({s: dispatcher.queue_depth}))

    calm = 0.5 * CAPACITY
    _, done = run(
        SPLIT, load([(BURST[0], calm), (BURST[1], 3 * CAPACITY), (55.0, calm)], 5), before=watch
    )
    assert depths[BURST[1]] > 0
    assert depths[BURST[1] + 5.0] <= 1  # one that has just come may wait for a chunk
    burst = window(done.outcomes, *BURST)
    refused = [outcome for outcome in burst if outcome.end == "overloaded"]
    taken = [outcome for outcome in burst if outcome.end != "overloaded"]
    assert len(refused) > 0.3 * len(burst)
    assert len(told) >= 0.93 * len(refused)  # at once; a few had waited
    assert attainment(taken) >= 0.85
    assert {error.code for error in told} == {"overloaded"}
    assert all(1.0 <= (error.retry_after or 0) <= 60.0 for error in told)
    assert sum(error.retry_after or 0 for error in told) / len(told) < 20.0
    after = window(done.outcomes, BURST[1] + 5.0, 55.0)
    assert attainment(after) >= 0.95


def test_where_decoding_is_scarce_streams_keep_their_pace() -> None:
    _, done = run(("prefill", "decode"), load([(15.0, 45.0)], 2, prompt=100, length=150))
    served = [outcome for outcome in done.outcomes if outcome.served]
    assert len(served) < 0.9 * len(done.outcomes)
    slow = [o for o in served if o.itl is not None and o.itl > ITL]
    assert len(slow) < 0.05 * len(served)
    assert attainment(served) > 0.85


# -- lanes -----------------------------------------------------------------------------------


def test_a_flood_of_batch_work_costs_no_interactive_request_its_target() -> None:
    """Batch work beyond what the workers can do. An interactive prompt still meets steps and
    streams of it on its worker, which no router can take back."""
    interactive = load([(25.0, 3.0)], 11, prompt=1000, length=60)
    flood = load([(3.0, 0.0), (20.0, 20.0)], 12, prompt=1000, length=60, lane="batch")
    _, alone = run(SPLIT, interactive)
    _, beside = run(SPLIT, interactive + flood)
    before, after = (
        quantile([o.ttft for o in of(one.outcomes, "interactive") if o.ttft], 0.99)
        for one in (alone, beside)
    )
    assert before is not None
    assert after is not None
    assert after < min(2 * before, TTFT)
    assert attainment(of(beside.outcomes, "interactive")) >= 0.98
    batch = of(beside.outcomes, "batch")
    assert len(batch) > 300
    assert all(outcome.served for outcome in batch)
    assert (quantile([o.ttft for o in batch if o.ttft], 0.5) or 0) > 5 * after  # it did wait


# -- workers that are not well -----------------------------------------------------------------


def given(run_: Run, cluster: Cluster, victim: str) -> Callable[[float, float], float]:
    """The share of dispatches within a span of seconds that named one worker."""
    sent = cluster.sent  # type: ignore[attr-defined]

    def share(start: float, end: float) -> float:
        names = [names for at, names in sent if start <= at < end]
        return sum(victim in found for found in names) / len(names)

    return share


def note_dispatches(cluster: Cluster) -> None:
    sent: list[tuple[float, set[str]]] = []
    cluster.sent = sent  # type: ignore[attr-defined]
    vitals = cluster.dispatchers[0]._vitals
    told = vitals.sent

    def noted(flight: Flight, now: float) -> None:
        sent.append((now, {identity.node_id for identity in flight.holders}))
        told(flight, now)

    vitals.sent = noted  # type: ignore[method-assign]


@pytest.mark.parametrize("victim", ["prefill-1", "decode-3"])
def test_a_slow_worker_gets_almost_nothing_and_is_taken_back(victim: str) -> None:
    def before(cluster: Cluster) -> None:
        note_dispatches(cluster)
        cluster.loop.at(8.0, cluster.slow, victim, 6.0)
        cluster.loop.at(25.0, cluster.slow, victim, 1.0)

    roles = ("prefill", "prefill", "decode", "decode", "decode")
    if victim == "decode-3":
        roles = ("prefill", "prefill", "prefill", "decode", "decode")
    cluster, done = run(roles, load([(60.0, 5.0)], 4, prompt=600, length=40), before=before)
    share = given(done, cluster, victim)
    assert share(0.0, 8.0) > 0.08
    assert share(13.0, 25.0) < 0.05
    assert share(45.0, 60.0) > 0.08
    assert attainment(done.outcomes) > 0.95


def test_a_worker_that_fails_each_request_is_left_alone_and_costs_none() -> None:
    victim = "mixed-1"

    def before(cluster: Cluster) -> None:
        note_dispatches(cluster)
        worker = cluster.workers[victim]
        work = worker.on_record

        def fail(session: SimulatedSession, record: Record) -> None:
            if isinstance(record, FIRST) and cluster.loop.time() > 5.0:
                session.tell(Declined(key=record.request.key, reason="stale"))
            else:
                work(session, record)

        worker.on_record = fail  # type: ignore[method-assign]

    cluster, done = run(("mixed",) * 4, load([(30.0, 6.0)], 4, prompt=400), before=before)
    share = given(done, cluster, victim)
    assert share(0.0, 5.0) > 0.05
    assert share(8.0, 30.0) < 0.05
    assert all(outcome.served for outcome in done.outcomes)
    assert done.retries["stale"] < 15

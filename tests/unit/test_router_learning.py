"""What a router keeps of each worker's prompts, and what latencies teach it."""

from __future__ import annotations

import math
from random import Random

import pytest
from plain_sessions import answer, decline, join, make

from baton.protocol.ids import Identity
from baton.protocol.records import RequestFailed
from baton.router.accuracy import MOST_LAG, Accuracy, OutputLengths
from baton.router.affinity import Sessions
from baton.router.backlog import Backlog
from baton.router.candidates import RequestFacts
from baton.router.crowding import MOST, Pool
from baton.router.dispatcher import Dispatcher
from baton.router.learning import MEMORY, Learning
from baton.router.observer import NoObserver
from baton.router.registry import Registry

# -- prompts of a worker ---------------------------------------------------------------------


def test_prompts_follow_on_each_other() -> None:
    backlog: Backlog[str] = Backlog()
    assert (backlog.head_until, backlog.head_work, backlog.queued) == (-math.inf, 0, 0)
    backlog.add("a", 2.0, 10.0)
    backlog.add("b", 3.0, 11.0)
    backlog.add("b", 9.0, 11.0)
    assert (backlog.head_until, backlog.head_work, backlog.queued) == (12, 2, 3)
    backlog.drop("a", 12.5)
    assert (backlog.head_until, backlog.head_work, backlog.queued) == (15.5, 3, 0)
    backlog.add("c", 1.0, 13.0)
    backlog.drop("c", 14.0)  # it overtook, and took its time from the head
    assert (backlog.head_until, backlog.queued) == (16.5, 0)
    backlog.drop("b", 16.0)
    backlog.drop("b", 16.0)
    assert len(backlog) == 0
    assert backlog.head_until == -math.inf


def test_what_other_routers_sent_is_behind_ours_or_alone() -> None:
    backlog: Backlog[str] = Backlog()
    backlog.hear_of_others(4.0, 10.0)
    assert (backlog.head_until, backlog.head_work) == (14, 4)
    backlog.add("a", 2.0, 10.0)
    assert (backlog.head_until, backlog.queued) == (12, 4)
    backlog.hear_of_others(0.0, 11.0)
    assert backlog.queued == 0


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_how_busy_prompts_keep_it_is_known_early_and_forgotten(share: float) -> None:
    backlog, rng, now = Backlog[int](), Random(1), 100.0
    seen = []
    for number in range(3000):
        now += rng.expovariate(10.0)
        backlog.add(number, share / 10, now)
        backlog.drop(number, now)
        if now > 102:
            seen.append(backlog.pressure(now))
    assert sum(seen) / len(seen) == pytest.approx(share, rel=0.05)
    assert sum(seen[:30]) / 30 == pytest.approx(share, rel=0.3)
    assert backlog.typical == pytest.approx(share / 10)
    assert backlog.pressure(now + 60) < 0.01


# -- queueing theory -------------------------------------------------------------------------


def test_prices_grow_with_how_busy_workers_are() -> None:
    pools = [Pool(pressure, 0.1) for pressure in (0.0, 0.3, 0.6, 0.9)]
    prices = [pool.work_price for pool in pools]
    assert prices == sorted(prices)
    assert prices[0] == 0
    # The derivative of p^2 / (1 - p) at 0.6.
    assert prices[2] == pytest.approx((0.601**2 / 0.399 - 0.6**2 / 0.4) / 0.001, rel=0.01)
    slowing = [pool.slowing_price(0.5) for pool in pools]
    assert slowing == sorted(slowing)
    assert Pool(0.9, 0.1).slowing_price(9.0) < math.inf
    assert Pool(5.0, 0.1).pressure == MOST


def test_targets_that_are_missed_raise_prices() -> None:
    easy, hard = Pool(0.6, 0.1, ttft=10.0, worth=10.0), Pool(0.6, 0.1, ttft=0.3, worth=10.0)
    assert easy.work_price == pytest.approx(Pool(0.6, 0.1).work_price, rel=1e-3)
    assert hard.work_price > 1.5 * easy.work_price
    assert hard.slowing_price(0.3) > 1.5 * easy.slowing_price(0.3)


# -- accuracy --------------------------------------------------------------------------------


def test_a_lag_and_a_factor_are_learned_and_outliers_ignored() -> None:
    accuracy, rng = Accuracy(), Random(2)
    for number in range(400):
        work = rng.uniform(0.02, 0.4)
        actual = 0.015 + 1.3 * work * math.exp(rng.gauss(0, 0.05))
        accuracy.first_token(0.0, work, 50.0 if number % 20 == 0 else actual)
    correction = accuracy.correction
    for work in (0.05, 0.2, 0.4):
        predicted = correction.lag + correction.prefill * work
        assert predicted == pytest.approx(0.015 + 1.3 * work, rel=0.05)


def test_corrections_are_bounded() -> None:
    accuracy = Accuracy()
    for _ in range(200):
        accuracy.first_token(0.0, 0.01, 100.0)
        accuracy.interval(1000.0)
        accuracy.handoff(0.0, 30.0)
    correction = accuracy.correction
    assert correction.lag <= MOST_LAG
    assert correction.handoff <= MOST_LAG
    assert correction.prefill <= 4
    assert correction.decode == pytest.approx(4)


def test_intervals_and_hand_offs_settle_at_what_is_measured() -> None:
    accuracy = Accuracy()
    for _ in range(60):
        accuracy.interval(1.25)
        accuracy.handoff(0.010, 0.025)
    assert accuracy.correction.decode == pytest.approx(1.25, rel=0.01)
    assert accuracy.correction.handoff == pytest.approx(0.015)
    accuracy.handoff(0.010, 9.0)
    assert accuracy.correction.handoff < 0.025


def test_outputs_are_expected_as_they_have_been_in_their_lane() -> None:
    outputs = OutputLengths()
    assert outputs.expected("interactive") == OutputLengths.UNKNOWN
    for _ in range(100):
        outputs.ended("interactive", 50)
        outputs.ended("batch", 900)
    assert outputs.expected("interactive") == pytest.approx(50)
    assert outputs.expected("batch") == pytest.approx(900)


def test_sessions_are_remembered_up_to_a_number() -> None:
    sessions = Sessions(most=2)
    a, b = Identity("a", 1), Identity("b", 1)
    sessions.served("", a, None)
    assert sessions.workers("") == ()
    for name in ("one", "two", "one", "three"):
        sessions.served(name, a, b if name == "one" else None)
    assert sessions.workers("one") == (a, b)
    assert sessions.workers("two") == ()
    assert sessions.workers("three") == (a,)


async def test_only_what_a_request_got_in_all_says_how_long_outputs_are() -> None:
    """Not what attempts got that came to nothing, nor requests that ended without a token."""
    dispatcher = Dispatcher()
    workers = [join(dispatcher, name, "mixed") for name in ("m0", "m1")]

    def holder() -> int:
        return next(n for n, worker in enumerate(workers) if worker.identity in flight.holders)

    def expected() -> float:
        return dispatcher._learning.outputs.expected("interactive")

    flight = dispatcher.submit(make(max_tokens=100))
    for tokens in (0, 10, 40):  # attempt after attempt is declined
        if tokens:
            answer(dispatcher, workers[holder()], flight, tokens)
        decline(dispatcher, workers[holder()], flight, "corrupt")
        flight.trouble.excluded_until.clear()
        dispatcher._sending.queue.resume(math.inf)
        dispatcher._sending.pump()
    assert expected() == OutputLengths.UNKNOWN
    answer(dispatcher, workers[holder()], flight, 50, end=True)
    assert expected() == 100
    for _ in range(2):
        flight = dispatcher.submit(make(max_tokens=100))
        decline(dispatcher, workers[holder()], flight, "corrupt")
        flight.cancel("enough")
    flight = dispatcher.submit(make(max_tokens=100))
    dispatcher.on_record(workers[holder()], RequestFailed(
        key=flight.key, code="context_length_exceeded", message="too long"
    ))
    assert flight.ended
    assert expected() == 100
    flight = dispatcher.submit(make(max_tokens=100))
    answer(dispatcher, workers[holder()], flight, 20)
    flight.finish_early()  # a stop string: that is how long it was
    assert 90 < expected() < 100
    dispatcher.close()


# -- targets ---------------------------------------------------------------------------------


def test_the_tightest_target_is_forgotten_when_nobody_comes_with_it_any_more() -> None:
    learning = Learning(Registry(), NoObserver())

    def came(ttft: float | None, now: float) -> tuple[float | None, float]:
        facts = RequestFacts(tokens=10, blocks=1, remaining=9, expected=10.0, ttft=ttft, itl=0.1)
        learning.dispatched(facts, now)
        return learning.tightest

    assert came(None, 5.0) == (None, 0.0)
    assert came(8.0, 5.0) == (8.0, pytest.approx(8.9))
    assert came(0.5, 10.0) == (0.5, pytest.approx(1.4))
    assert came(2.0, 11.0)[0] == 0.5
    assert came(0.5, 20.0)[0] == 0.5
    assert came(2.0, 20.0 + 0.99 * MEMORY)[0] == 0.5
    assert came(2.0, 20.0 + 1.01 * MEMORY) == (2.0, pytest.approx(2.9))
    assert came(8.0, 21.0 + 1.01 * MEMORY)[0] == 2.0
    assert came(None, 60.0 + 2 * MEMORY) == (None, 0.0)

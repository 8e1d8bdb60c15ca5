"""Admission, retry budget and restraint, with plain values."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from baton.protocol.curves import StepCurve
from baton.protocol.ids import Identity
from baton.router.admission import IN_TIME, NO_GAPS, Admission, Drain, Offered, Prospect
from baton.router.budget import LONGEST, MOST, PER_SECOND, SHARE, RetryBudget
from baton.router.candidates import Candidate, RequestFacts
from baton.router.lanes import Lanes, configure
from baton.router.policy import Decision
from baton.router.prediction import Prediction
from baton.router.restraint import better_to_wait
from baton.router.speed import WorkerModel

LANES = Lanes(configure(ttft=2.0, specs=["interactive:patience=10s"]))
INTERACTIVE = LANES.named("interactive")


def prospect(ahead: float, late: float | None = None, share: float = 1.0) -> Prospect:
    return Prospect(INTERACTIVE, 0.0, ahead, ahead if late is None else late, share)


def busy(admission: Admission, rate: float, until: float, whole: float = 0.0) -> None:
    """So many seconds of prompts arrive in a second, and of all workers' time with their answers,
    in pieces of a tenth of it."""
    for n in range(int(until * 10)):
        admission.arrived("interactive", rate / 10, whole / 10, n / 10)


@pytest.mark.parametrize(("ahead", "capacity", "taken"), [
    (0.0, 1.0, True), (1.7, 1.0, True), (5.0, 1.0, True), (10.5, 1.0, False), (17.0, 2.0, True),
])
def test_what_is_predicted_within_patience_is_taken_while_little_comes(
    ahead: float, capacity: float, taken: bool
) -> None:
    refusal = Admission(LANES).refusal(prospect(ahead), 0.1, capacity, 0.0)
    assert (refusal is None) is taken


def test_in_overload_only_what_can_be_in_time_is_taken() -> None:
    admission = Admission(LANES)
    busy(admission, 3.0, 30.0)
    in_time = IN_TIME * INTERACTIVE.ttft
    assert admission.refusal(prospect(in_time - 0.2), 0.1, 1.0, 30.0) is None
    refusal = admission.refusal(prospect(in_time + 0.2), 0.1, 1.0, 30.0)
    assert refusal is not None
    assert 1.0 <= refusal <= 60.0
    longer = admission.refusal(prospect(in_time + 4.0), 0.1, 1.0, 30.0)
    assert longer is not None
    assert longer > refusal
    assert admission.refusal(prospect(in_time + 0.2), 0.1, 1.0, 90.0) is None  # it is over


def test_answers_leave_no_room_for_late_ones_either() -> None:
    """A tenth of the time goes into prompts, which are late for once; the rest of it is writing."""
    for whole, taken in ((0.3, True), (NO_GAPS + 0.1, False)):
        admission = Admission(LANES)
        busy(admission, 0.1, 30.0, whole)
        assert (admission.refusal(prospect(2.5), 0.1, 1.0, 30.0) is None) is taken
        assert admission.refusal(prospect(1.0), 0.1, 1.0, 30.0) is None  # it is in time


def test_a_lane_that_others_share_with_has_less() -> None:
    admission = Admission(LANES)
    busy(admission, 0.5, 30.0)
    assert admission.refusal(prospect(2.5), 0.1, 1.0, 30.0) is None
    assert admission.refusal(prospect(2.5, share=0.5), 0.1, 1.0, 30.0) is not None


def test_targets_that_nobody_asked_for_refuse_nothing_within_patience() -> None:
    lanes = Lanes()
    admission = Admission(lanes)
    busy(admission, 3.0, 30.0)

    def refusal(ahead: float) -> float | None:
        lane = lanes.named("interactive")
        return admission.refusal(Prospect(lane, 0.0, ahead, ahead, 1.0), 0.1, 1.0, 30.0)

    assert refusal(50.0) is None
    assert refusal(70.0) is not None


def test_what_a_lighter_lane_waits_for_says_nothing_of_how_fast_a_heavier_one_moves() -> None:
    """A batch request waits for a minute, for intervals. People's come and go meanwhile, a tenth
    of what workers can do; then some of them have to wait."""
    refusals = []
    for batch_waits in (False, True):
        admission = Admission(LANES)
        admission.waits("batch", batch_waits, 0.0)
        for n in range(600):
            admission.waits("interactive", True, n * 0.1)
            admission.sent(0.01, n * 0.1 + 0.005)
            admission.waits("interactive", False, n * 0.1 + 0.01)
        admission.waits("interactive", True, 60.0)
        refusals.append([
            admission.refusal(prospect(ahead), 0.1, 1.0, 60.0) for ahead in (1.0, 5.0, 50.0)
        ])
    assert refusals[0] == refusals[1]
    assert [refusal is None for refusal in refusals[0]] == [True, True, False]


def test_what_others_send_while_a_lane_does_not_wait_says_nothing_of_its_queue() -> None:
    admission = Admission(LANES)
    admission.waits("interactive", True, 0.0)
    admission.sent(0.1, 0.1)
    admission.waits("interactive", False, 0.1)
    admission.waits("batch", True, 0.1)
    for n in range(60):
        admission.sent(1.0, 0.1 + n * 0.01)  # what nobody's first token waits for
    admission.waits("interactive", True, 0.8)
    assert admission.refusal(prospect(50.0), 0.1, 1.0, 0.9) is not None


def test_a_lane_that_waits_sees_what_all_lanes_send() -> None:
    admission = Admission(LANES)
    admission.waits("interactive", True, 0.0)
    for n in range(1, 61):
        admission.sent(0.2, n * 0.1)  # of other lanes too: two seconds of work a second
    assert admission.refusal(prospect(15.0), 0.1, 1.0, 6.0) is None
    assert admission.refusal(prospect(25.0), 0.1, 1.0, 6.0) is not None


def test_nothing_is_refused_where_nothing_is_known() -> None:
    assert Admission(LANES).refusal(prospect(1e9), None, None, 0.0) is None


def test_how_the_queue_moved_counts_more_than_what_was_thought() -> None:
    drain = Drain()
    assert (drain.rate(None, 0.0), drain.rate(4.0, 0.0)) == (None, 4.0)
    drain.queue(True, 0.0)
    for n in range(1, 61):
        drain.sent(0.1, n * 0.1)  # one second of work in a second
    assert drain.rate(None, 6.0) == pytest.approx(1.0)
    assert drain.rate(4.0, 6.0) == pytest.approx(1.0, rel=0.5)
    assert drain.rate(None, 12.0) == pytest.approx(0.5, rel=0.05)  # it stands still
    drain.queue(False, 12.0)
    drain.queue(True, 12.5)  # for a moment: the same
    assert drain.rate(None, 12.5) == pytest.approx(0.5, rel=0.05)
    drain.queue(False, 13.0)
    drain.queue(True, 20.0)
    assert drain.rate(None, 20.0) is None


def test_what_arrives_is_averaged_and_forgotten() -> None:
    offered = Offered(10.0)
    for n in range(600):
        offered.add(0.2, n / 10)
    assert offered.rate(60.0) == pytest.approx(2.0, rel=0.05)
    assert offered.rate(90.0) == pytest.approx(0.1, rel=0.1)


def test_retries_are_a_share_of_requests() -> None:
    budget = RetryBudget()
    at_once = 0
    for _ in range(1000):
        budget.request()
        at_once += budget.take(0.0) == 0.0
    assert at_once == pytest.approx(MOST / (1 - SHARE), abs=3)
    later = RetryBudget()
    for _ in range(int(MOST)):
        assert later.take(0.0) == 0.0
    assert later.take(0.0) == pytest.approx(1 / PER_SECOND)
    assert later.take(1.0) == pytest.approx(0.0)
    # A thousand at once: nobody waits for the thousand before.
    assert max(later.take(1.0) for _ in range(1000)) == pytest.approx(LONGEST)
    assert later.take(1.0 + LONGEST) == pytest.approx(1 / PER_SECOND)


CURVE = StepCurve(
    base=0.01, chunk=0.0, token=1e-4, pair=0.0, decode=1e-4, context=0.0, spread=0.0, steps=9
)
WORKER = Candidate(
    Identity("d", 1), "mixed", 64, 20, 0, 1000,
    model=WorkerModel(curve=CURVE, decoding=20, context=4000, itl=0.05),
)
FACTS = RequestFacts(tokens=200, blocks=13, remaining=50, due_in=1.0, itl=0.05)
FINE = Prediction(
    ttft=0.1, queue=0.0, prefill=0.1, exposed=0.0, itl=0.02, itl_others=0.02, work=0.1, step=0.02
)


def waits(
    predicted: Prediction, facts: RequestFacts = FACTS, worker: Candidate = WORKER,
    missed: float = 1.0, spare: float | None = None,
) -> bool:
    decision = Decision("local", worker.identity, None, "x", predicted, missed=missed)
    return better_to_wait(decision, facts, [worker], spare)


def test_nobody_waits_where_all_is_well_or_nothing_is_known() -> None:
    assert not waits(FINE)
    assert not waits(replace(FINE, itl_others=0.2, measured=False))


def test_one_that_would_break_intervals_waits_if_waiting_may_help() -> None:
    broken = replace(FINE, itl_others=0.048)
    assert waits(broken)
    assert waits(replace(FINE, step=0.048))
    assert not waits(broken, replace(FACTS, recompute=True))
    assert not waits(broken, worker=replace(WORKER, model=WorkerModel(curve=CURVE)))
    hopeless = replace(FACTS, itl=0.001)
    assert not waits(replace(FINE, step=0.048), hopeless)


def test_targets_that_nobody_asked_for_are_not_waited_for() -> None:
    loose = replace(FACTS, firm=False)
    unasked = replace(WORKER, model=WorkerModel(curve=CURVE, decoding=20, context=4000))
    slow, late = replace(FINE, step=0.048, itl_others=0.048), replace(FINE, ttft=1.5)
    assert not waits(slow, loose, unasked)
    assert not waits(late, loose)
    assert waits(slow, loose)  # somebody who decodes there asked
    assert waits(replace(FINE, itl_others=0.035), loose, unasked, spare=0.05)


def test_lighter_lanes_leave_room_in_the_intervals() -> None:
    middling = replace(FINE, itl_others=0.035)
    assert not waits(middling)
    assert waits(middling, spare=0.05)


def test_one_that_may_be_in_time_elsewhere_is_not_sent_to_be_late() -> None:
    late = replace(FINE, ttft=1.5)
    assert waits(late)
    too_late = replace(FACTS, due_in=0.01)
    assert not waits(late, too_late)
    assert waits(late, too_late, missed=2.0)  # others would be late by it

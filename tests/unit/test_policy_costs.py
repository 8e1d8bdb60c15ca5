"""Where requests go when speeds are known: what is cheapest for everyone, as late as it can be."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.ids import Identity
from baton.router.candidates import Candidate, RequestFacts
from baton.router.loans import Lender
from baton.router.options import price_of_queue
from baton.router.policy import Decision, Wait, decide
from baton.router.prediction import outlook, prefill_work, room_in
from baton.router.speed import WorkerModel

CURVE = StepCurve(
    base=10e-3, chunk=0.0, token=1e-4, pair=0.0, decode=1e-4, context=1e-7, spread=0.1, steps=999
)
"""A prompt of 1,000 tokens takes 120 ms, a decoding sequence adds a tenth of a millisecond."""
FACTS = RequestFacts(
    tokens=1000, blocks=63, remaining=100, block_size=16, token_bytes=1000,
    due_in=2.0, ttft=2.0, itl=0.1,
)
NOW = 100.0


def identity(name: str) -> Identity:
    return Identity(name, 1)


LIGHT = {"pressure": 0.3, "typical": 0.12}
"""Of a worker that prompts have kept busy for a third of the time."""
HEAVY = {"pressure": 0.8, "typical": 0.12}


def worker(
    name: str, *, room: int = 4096, curve: StepCurve | None = CURVE, **model: Any
) -> Candidate:
    """`p...` for prompts, `d...` decodes, `m...` both. `model`: of its WorkerModel."""
    decoding = model.get("decoding", 0)
    if decoding:
        model = {"context": 500 * decoding, "itl": 0.1, **model}
    role = {"p": "prefill", "d": "decode", "m": "mixed"}[name[0]]
    return Candidate(
        identity(name), role, 256, decoding, int(bool(model.get("queued"))), room,
        model=WorkerModel(curve, **model),
    )


def chosen(facts: RequestFacts, *workers: Candidate) -> Decision:
    decision = decide(facts, list(workers), (), NOW)
    assert isinstance(decision, Decision), decision
    return decision


def way(decision: Decision) -> tuple[str | None, str, str]:
    """Who computes the prompt for the other, who decodes, and why."""
    prefill = decision.prefill.node_id if decision.prefill else None
    return prefill, decision.decode.node_id, decision.reason


# -- ways ------------------------------------------------------------------------------------


def test_idle_workers_keep_to_their_roles_and_are_predicted() -> None:
    decision = chosen(FACTS, worker("p0"), worker("d0"))
    assert way(decision) == ("p0", "d0", "split")
    predicted = decision.prediction
    assert predicted is not None
    assert predicted.ttft == pytest.approx(2 * 10e-3 + 1000 * 1e-4)
    assert predicted.itl == pytest.approx(10e-3 + 1e-4 + 1e-7 * 1050)
    assert (predicted.queue, predicted.exposed, predicted.link_measured) == (0, 0, False)
    assert predicted.work == predicted.ttft


def test_a_decode_worker_with_headroom_computes_prompts_that_would_wait_long() -> None:
    busy = worker("p0", queued=1.0, head_work=0.0)
    assert way(chosen(FACTS, busy, worker("d0", decoding=2))) == (None, "d0", "prefill_busy")
    decision = decide(
        FACTS, [worker("p0", queued=0.1, **HEAVY), worker("d0", decoding=40)], (), NOW
    )
    assert decision is Wait.BUSY  # it will be better off there


def test_a_long_prompt_waits_for_whoever_is_free_first_a_short_one_shares_steps() -> None:
    """Three seconds wait at the first worker; the other one has time, but decodes."""
    first = worker("p0", queued=1.0, head_work=2.0, head_until=NOW + 2.0)
    other = worker("p1", decoding=90, itl=23e-3)
    full = worker("d0", decoding=120, itl=25e-3)
    long = replace(FACTS, tokens=8000, blocks=501, due_in=9.0, ttft=9.0)
    assert decide(long, [first, other, full], (), NOW) is Wait.BUSY
    known = replace(long, held={identity("p0"): 440})
    assert "p0" in way(chosen(known, first, other, full))[:2]  # it has most of it
    short = replace(FACTS, due_in=9.0, ttft=9.0)
    assert "p0" in way(chosen(short, worker("p0", queued=0.1), other, full))[:2]


def seconds_for(pool: list[Candidate], facts: RequestFacts = FACTS) -> float:
    """That pass while these workers do two seconds of work that waits."""
    near, far = (outlook(facts, pool, ahead, NOW) for ahead in (5.0, 7.0))
    assert near is not None
    assert far is not None
    return far - near


def test_what_waits_is_measured_alike_whatever_workers_have_to_do() -> None:
    """In seconds of a worker on which nobody decodes; others do less of it in a second."""
    alone, beside = [worker("m0")], [worker("m0", decoding=40, itl=25e-3)]
    assert prefill_work(FACTS, beside) == prefill_work(FACTS, alone)
    assert seconds_for(alone) == pytest.approx(2.0)
    model = beside[0].model
    assert model.rate > 1.5 * model.rate_alone
    assert seconds_for(beside) == pytest.approx(2 * model.rate / model.rate_alone)
    assert seconds_for([worker("m0"), worker("m1")]) == pytest.approx(1.0)
    assert 1.0 < seconds_for([worker("m0"), *beside]) < 2.0
    slow = worker("m1", curve=CURVE.scaled(3.0))
    assert seconds_for([worker("m0"), slow]) == pytest.approx(2 / (1 + 1 / 3))


def test_who_decodes_reads_what_waits_as_far_as_its_intervals_allow() -> None:
    """Unless it has to keep to its role, or its speed is not known."""
    reader, decoder = worker("p0"), worker("d0", decoding=40)
    model = decoder.model
    assert seconds_for([reader, decoder]) == pytest.approx(2 / (1 + model.rate_alone / model.rate))
    strict = replace(FACTS, strict_roles=True)
    assert seconds_for([reader, decoder], strict) == pytest.approx(2.0)
    assert seconds_for([reader, worker("d0", curve=None)]) == pytest.approx(2.0)
    full = worker("d0", decoding=120, itl=25e-3)
    assert 1.7 < seconds_for([reader, full]) < 2.0
    assert seconds_for([decoder], strict) == pytest.approx(2 * model.rate / model.rate_alone)


def test_who_waits_behind_makes_headroom_worth_its_price_where_others_have_enough() -> None:
    """The worker for prompts is free next, for the first in line as good as ever; but twenty wait
    for it too, and the last of them in vain."""
    pressed = worker("p0", queued=0.1, **HEAVY)
    headroom = worker("d0", decoding=40)
    assert decide(FACTS, [pressed, headroom], (), NOW) is Wait.BUSY
    two = replace(FACTS, behind=(2, 0.2))
    assert decide(two, [pressed, headroom], (), NOW) is Wait.BUSY
    twenty = replace(FACTS, behind=(20, 2.4))
    assert way(chosen(twenty, pressed, headroom))[0] is None
    ten = replace(FACTS, behind=(10, 1.2))
    assert way(chosen(ten, pressed, headroom))[0] is None
    near = worker("d0", decoding=40, itl=19e-3)
    assert decide(ten, [pressed, near], (), NOW) is Wait.BUSY  # there is little headroom


def test_nobody_who_waits_gains_by_leaving_a_worker_for_prompts_idle() -> None:
    free, headroom = worker("p0", queued=0.04, **HEAVY), worker("d0", decoding=40)
    for behind in ((0, 0.0), (20, 2.4), (200, 24.0)):
        facts = replace(FACTS, behind=behind)
        assert way(chosen(facts, free, headroom))[0] == "p0"
    # Of two that do both the same holds.
    busy, idle = worker("m0", decoding=5, queued=0.3), worker("m1", decoding=5)
    prefill, decode, _ = way(chosen(replace(FACTS, behind=(20, 2.4)), busy, idle))
    assert (prefill or decode) == "m1"


def test_the_price_of_a_queue_is_who_waits_longer_and_who_will_be_late() -> None:
    workers = [worker("p0"), worker("p1")]
    assert price_of_queue(FACTS, workers, NOW) == 0.0
    some = replace(FACTS, behind=(4, 0.4))
    assert price_of_queue(some, workers, NOW) == pytest.approx(4 / 2)
    assert price_of_queue(some, [], NOW) == 0.0
    # Over two workers 8 s of prompts come to an end after 4 s; all from 2 s on are late.
    many = replace(FACTS, behind=(80, 8.0))
    late = 80 / 2 + many.worth / 0.1
    assert price_of_queue(many, workers, NOW) == pytest.approx(late)
    assert price_of_queue(replace(many, ttft=None), workers, NOW) == pytest.approx(80 / 2)
    edge = replace(FACTS, behind=(38, 3.8))
    assert price_of_queue(edge, workers, NOW) == pytest.approx(19 + edge.worth / 0.1 / 2)


def test_prompts_stay_away_from_decodes_that_are_near_their_target() -> None:
    """Chunks beside them would break forty streams, so even a late prompt waits for its turn."""
    near = worker("d0", decoding=40, itl=19e-3)
    late = replace(FACTS, due_in=0.3, itl=None)
    decision = chosen(late, worker("p0", queued=0.04, **HEAVY), near)
    assert way(decision) == ("p0", "d0", "itl_protected")
    decision = decide(late, [worker("p0", queued=0.6, **HEAVY), near], (), NOW)
    assert decision is Wait.BUSY
    relaxed = worker("d0", decoding=40, itl=1.0)
    assert way(chosen(late, worker("p0", queued=0.6, **HEAVY), relaxed))[0] is None


def test_an_idle_prefill_worker_decodes_when_those_that_should_have_too_much() -> None:
    full = worker("d0", decoding=900, itl=0.1)
    assert way(chosen(FACTS, worker("p0"), full))[:2] == (None, "p0")
    pressed = worker("p0", **HEAVY)
    assert way(chosen(FACTS, pressed, worker("d0", decoding=100)))[:2] == ("p0", "d0")
    no_room = worker("d0", decoding=3, room=10)
    assert way(chosen(FACTS, worker("p0"), no_room)) == (None, "p0", "decode_busy")


def test_of_two_decode_workers_the_one_where_less_is_lost() -> None:
    workers = [worker("p0", **HEAVY), worker("d0", decoding=60), worker("d1", decoding=50)]
    assert way(chosen(FACTS, *workers))[1] == "d1"
    strict = [workers[0], workers[1], worker("d1", decoding=50, itl=18e-3)]
    assert way(chosen(replace(FACTS, itl=None), *strict))[1] == "d0"


def test_its_own_target_counts_more_than_some_latency_of_others() -> None:
    """The worker that is free at once has streams with room to spare."""
    workers = [worker("p0", queued=0.049, **HEAVY), worker("d0", decoding=60, itl=1.0)]
    assert way(chosen(replace(FACTS, due_in=5.0), *workers))[0] == "p0"
    late = [worker("p0", head_until=NOW + 0.4, head_work=0.5, **HEAVY), workers[1]]
    assert way(chosen(replace(FACTS, due_in=0.2), *late))[0] is None


# -- caches ----------------------------------------------------------------------------------


def held(**blocks: int) -> RequestFacts:
    return replace(FACTS, held={identity(name): count for name, count in blocks.items()})


def test_a_hot_prefix_spreads_before_its_holder_is_overloaded() -> None:
    """960 of 1,000 tokens are cached at p0, so recomputing them costs 0.1 s."""
    def reading(queued: float) -> tuple[str | None, str]:
        workers = worker("p0", queued=queued, **LIGHT), worker("p1", **LIGHT)
        prefill, _, reason = way(chosen(held(p0=60), *workers, worker("d0", decoding=5)))
        return prefill, reason

    assert [reading(queued) for queued in (0.0, 0.1)] == [("p0", "cached_here")] * 2
    assert [reading(queued) for queued in (0.15, 0.3)] == [("p1", "split")] * 2


def test_a_loan_makes_going_elsewhere_cheap() -> None:
    link = LinkCurve(latency=1e-3, byte=1e-8, spread=0.1, transfers=99)
    facts = replace(held(p0=60), lenders=[Lender(identity("p0"), 60, {"p1": link})])
    workers = (
        worker("p0", queued=0.04, **LIGHT), worker("p1", **LIGHT), worker("d0", decoding=5)
    )
    assert way(chosen(held(p0=60), *workers))[0] == "p0"
    decision = chosen(facts, *workers)
    assert decision.prefill == identity("p1")
    assert decision.loan is not None
    assert decision.loan.lender == identity("p0")
    assert decision.prediction is not None
    assert decision.prediction.work == pytest.approx(10e-3 + 40e-4 + 1e-3 + 960e3 * 1e-8)


def test_a_link_that_was_never_used_is_taken_to_be_like_another() -> None:
    """Or a worker that nobody lends to would compute everything, and so get nothing for ever."""
    link = LinkCurve(latency=1e-3, byte=1e-8, spread=0.1, transfers=99)
    workers = (
        worker("p0", queued=0.04, **LIGHT), worker("p1", **LIGHT), worker("d0", decoding=5)
    )

    def lent(links: dict[str, LinkCurve]) -> Decision:
        lenders = [Lender(identity("p0"), 60, links)]
        return chosen(replace(held(p0=60), lenders=lenders), *workers)

    assert way(lent({}))[0] == "p0"
    decision = lent({"d0": link})
    assert way(decision)[0] == "p1"
    assert decision.loan is not None
    assert decision.loan.seconds == pytest.approx(1e-3 + 960e3 * 1e-8)


def test_who_can_fetch_what_it_lacks_is_looked_at_however_many_have_it() -> None:
    """Three have cached most of it and are busy; the fourth is idle and has nothing."""
    link = LinkCurve(latency=1e-3, byte=1e-8, spread=0.1, transfers=99)
    blocks = held(p0=60, p1=60, p2=60)
    facts = replace(blocks, lenders=[Lender(identity("p0"), 60, {"p1": link})])
    busy = [worker(f"p{n}", queued=0.04, **LIGHT) for n in range(3)]
    everyone = [*busy, worker("p3", **LIGHT), worker("d0", decoding=5)]
    assert way(chosen(facts, *everyone))[0] == "p3"
    assert way(chosen(blocks, *everyone))[0] in ("p0", "p1", "p2")


def test_what_must_travel_and_cannot_be_hidden_delays_the_second_token() -> None:
    """All of a prompt of two chunks is 1 MB, the last chunk 488 KB."""
    links = {
        "d0": LinkCurve(latency=1e-3, byte=1e-6, spread=0.1, transfers=9),
        "d1": LinkCurve(latency=1e-3, byte=1e-9, spread=0.1, transfers=9),
    }
    decision = chosen(FACTS, worker("p0", links=links), worker("d0"), worker("d1"))
    assert way(decision)[1] == "d1"
    [slow] = [o for o in decision.others if not o.local]
    assert slow.exposed == pytest.approx(1.0 - 0.12)  # the link is the slower of both
    assert decision.prediction is not None
    assert decision.prediction.exposed == pytest.approx(1e-3 + 488e-6)
    assert decision.prediction.link_measured


def test_a_session_stays_where_it_was_for_nearly_the_same_cost() -> None:
    def decoded_by(others: int) -> tuple[str, str]:
        facts = replace(FACTS, affinity=[identity("d1")])
        workers = (
            worker("p0", **LIGHT), worker("d0", decoding=10), worker("d1", decoding=others)
        )
        _, decode, reason = way(chosen(facts, *workers))
        return decode, reason

    assert decoded_by(11) == ("d1", "affinity")
    assert decoded_by(9) == ("d1", "split")
    assert decoded_by(60) == ("d0", "split")


# -- when ------------------------------------------------------------------------------------


def test_prompts_are_bound_late() -> None:
    """A worker gets the next one when it has less than 50 ms (or a step) to do."""
    busy, done = worker("p0", queued=0.2, **HEAVY), worker("p1", queued=0.02, **HEAVY)
    decode = worker("d0", decoding=60)
    assert decide(FACTS, [busy, decode], (), NOW) is Wait.BUSY
    assert way(chosen(FACTS, busy, done, decode))[0] == "p1"
    shared = worker("p2", head_until=NOW + 9, head_work=9.0, **HEAVY)
    assert way(chosen(FACTS, busy, shared, decode))[0] == "p2"  # it gets half of each step
    assert room_in([busy, decode], NOW) == pytest.approx(0.2 - busy.model.horizon)
    assert room_in([done, decode], NOW) is None
    assert busy.model.horizon == pytest.approx(10e-3 + 512e-4)


def test_a_prompt_under_way_is_believed_to_proceed() -> None:
    model = WorkerModel(CURVE, head_until=NOW + 0.3, head_work=0.4)
    assert model.queue(NOW) == pytest.approx(0.3)
    assert model.queue(NOW + 0.2) == pytest.approx(0.1)
    assert model.queue(NOW + 9) == pytest.approx(0.04)  # overdue: nobody knows, but not nothing


def test_a_short_prompt_shares_steps_with_a_long_one() -> None:
    model = WorkerModel(CURVE, head_until=NOW + 30, head_work=40.0)
    assert model.queue(NOW, 0.2) == pytest.approx(0.2)
    assert model.queue(NOW, 50.0) == pytest.approx(30.0)


def test_the_outlook_grows_with_what_is_ahead_and_shrinks_with_workers() -> None:
    one, two = [worker("p0")], [worker("p0"), worker("p1")]
    work = prefill_work(FACTS, one)
    assert work == pytest.approx(0.1 + 10e-3 * 1000 / 512)  # of two full steps
    takes = 0.12
    assert outlook(FACTS, one, 0.0, NOW) == pytest.approx(takes)
    assert outlook(FACTS, one, 3.0, NOW) == pytest.approx(3.0 + takes)
    assert outlook(FACTS, two, 3.0, NOW) == pytest.approx(1.5 + takes)
    assert outlook(FACTS, [worker("p0", curve=None)], 3.0, NOW) is None


# -- chunks ----------------------------------------------------------------------------------


def test_chunks_are_as_large_as_the_tightest_target_allows() -> None:
    alone, beside = WorkerModel(CURVE), WorkerModel(CURVE, decoding=10, context=0, itl=0.03)
    assert alone.chunk == 512
    assert beside.chunk == pytest.approx((0.9 * 0.03 - 11e-3) / 1e-4, abs=1)
    assert beside.prefill(1000, 0)[0] > 1.3 * alone.prefill(1000, 0)[0]
    assert WorkerModel(CURVE, decoding=10, itl=1e-3).chunk == 16


def test_what_was_not_taken_is_kept_the_best_first() -> None:
    decision = chosen(FACTS, worker("p0"), worker("p1", queued=0.03), worker("d0"), worker("d1"))
    costs = [decision.cost, *(alternative.cost for alternative in decision.alternatives)]
    assert len(costs) == 4
    assert costs == sorted(costs)
    assert all(alternative.prediction.ttft > 0 for alternative in decision.alternatives)


def test_strict_roles_are_kept_whatever_they_cost() -> None:
    strict = replace(FACTS, strict_roles=True)
    late = worker("p0", queued=0.05, **HEAVY)
    assert way(chosen(FACTS, late, worker("d0")))[:2] == (None, "d0")
    assert way(chosen(strict, late, worker("d0"))) == ("p0", "d0", "split")
    full = worker("d0", decoding=250)
    assert way(chosen(FACTS, worker("p0"), full))[:2] == (None, "p0")
    assert way(chosen(strict, worker("p0"), full))[:2] == ("p0", "d0")
    assert way(chosen(strict, worker("d0"))) == (None, "d0", "no_prefill_worker")


def test_while_prompts_press_roles_are_kept_by_who_is_in_time_so() -> None:
    """One that decodes beside prompts costs these more than it gains, however cheap it looks."""
    busy = [worker("p0", queued=0.05, **HEAVY), worker("p1", queued=0.05, **HEAVY)]
    calm = [worker("p0", queued=0.05), worker("p1", queued=0.05)]
    decodes = worker("d0")
    due = replace(FACTS, due_in=FACTS.ttft)
    kept = chosen(due, *busy, decodes)
    assert kept.prefill is not None
    assert kept.prefill.node_id in ("p0", "p1")
    assert kept.decode.node_id == "d0"
    # Otherwise it does what is quickest: `d0` has no queue.
    assert way(chosen(due, *calm, decodes))[:2] == (None, "d0")
    # Nor do those keep to them that would be late so, or that others are not to wait for.
    assert way(chosen(replace(due, due_in=0.04), *busy, decodes))[:2] == (None, "d0")


def test_what_decodes_beside_does_not_hide_how_hard_prompts_press_the_rest() -> None:
    """They go to those that are free for them. Else the roles of some are swapped for good: they
    take no more prompts and go on to be given what is to be decoded, for that is cheap there."""
    due = replace(FACTS, due_in=FACTS.ttft, tokens=200, blocks=13)
    strays = [worker(f"p{n}", decoding=6, pressure=0.1, typical=0.12) for n in (2, 3, 4)]
    for pressing, waiting, decoder in ((HEAVY, 1, "d0"), (HEAVY, 0, "p2"), (LIGHT, 1, "p2")):
        free = [worker(f"p{n}", queued=0.3, **pressing) for n in (0, 1)]
        facts = replace(due, behind=(waiting, 0.0))
        decision = chosen(facts, *free, *strays, worker("d0", decoding=60))
        assert decision.decode.node_id == decoder


# -- links that are cut ----------------------------------------------------------------------


def cut(*ways: tuple[str, str], facts: RequestFacts = FACTS) -> RequestFacts:
    return replace(facts, severed={(identity(p), identity(d)) for p, d in ways})


def test_hand_offs_go_round_a_cut_link() -> None:
    workers = [worker("p0"), worker("p1", queued=0.05), worker("d0"), worker("d1", decoding=4)]
    strict = replace(FACTS, strict_roles=True)
    assert way(chosen(strict, *workers))[:2] == ("p0", "d0")
    one = cut(("p0", "d0"), facts=strict)
    assert way(chosen(one, *workers))[:2] in {("p0", "d1"), ("p1", "d0")}
    both = cut(("p0", "d0"), ("p0", "d1"), facts=strict)
    assert way(chosen(both, *workers))[:2] == ("p1", "d0")


def test_where_all_links_are_cut_one_worker_does_both() -> None:
    decision = chosen(cut(("p0", "d0")), worker("p0"), worker("d0"))
    assert (decision.route, decision.reason) == ("local", "severed")
    # So does one of which nothing is known: trying the link again would cost it seconds.
    unknown = [worker("p0", curve=None), worker("d0", curve=None)]
    decision = chosen(cut(("p0", "d0")), *unknown)
    assert (decision.route, decision.reason) == ("local", "severed")


def test_what_is_held_back_for_streams_is_not_sent_over_a_cut_link() -> None:
    """After a cut hundreds come at once; they wait for their turn where they can run."""
    lost = cut(("p0", "d0"), facts=replace(FACTS, recompute=True))
    p0, d0 = worker("p0"), worker("d0", decoding=8)
    full = replace(p0, decoding=p0.max_running)
    busy = replace(d0, recompute_tokens=400)
    assert decide(lost, [full, d0], (), NOW) == Decision("local", d0.identity, None, "severed")
    assert decide(lost, [full, busy], (), NOW) is Wait.THROTTLED

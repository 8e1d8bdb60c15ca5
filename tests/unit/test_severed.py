"""Pairs of workers that cannot reach each other, with plain values."""

from __future__ import annotations

import pytest
from plain_sessions import CURVE

from baton.protocol.curves import LinkCurve
from baton.protocol.ids import Identity
from baton.router.candidates import Candidate, RequestFacts
from baton.router.loans import Lender
from baton.router.policy import Decision, decide
from baton.router.severed import MOST_PAUSE, PAUSE, TRIAL, Pair, Severed
from baton.router.speed import WorkerModel

P, D, E, F = (Identity(name, 1) for name in "pdef")


def test_a_pair_is_left_alone_for_longer_and_longer_and_tried_once_at_a_time() -> None:
    severed = Severed()
    assert not severed.pairs(0.0)
    now, pause = 10.0, PAUSE
    for _ in range(8):
        for _ in range(200):  # all that were under way fail with the first
            severed.failed((P, D), now)
        assert set(severed.pairs(now + 0.99 * pause)) == {(P, D)}
        now += pause
        assert not severed.pairs(now)
        severed.sent((P, D), now)
        assert set(severed.pairs(now)) == {(P, D)}  # for all but the trial
        now += 0.5
        pause = min(MOST_PAUSE, 2 * pause)
    assert pause == MOST_PAUSE
    severed.worked((P, D))
    assert not severed.pairs(now)
    severed.failed((P, D), now)
    assert not severed.pairs(now + PAUSE)  # as if for the first time


def test_a_trial_of_which_nothing_is_heard_blocks_nobody_for_ever() -> None:
    severed = Severed()
    severed.failed((P, D), 0.0)
    severed.sent((P, D), PAUSE)
    assert severed.pairs(PAUSE + 0.9 * TRIAL)
    assert not severed.pairs(PAUSE + TRIAL)


def test_what_was_sent_within_the_pause_is_no_trial() -> None:
    severed = Severed()
    severed.failed((P, D), 0.0)
    severed.sent((P, D), 0.1)
    severed.failed((P, D), 0.2)
    assert not severed.pairs(PAUSE)


def test_pairs_of_a_worker_go_with_it() -> None:
    severed = Severed()
    for pair in ((P, D), (P, E), (E, D)):
        severed.failed(pair, 0.0)
    severed.gone(D)
    assert set(severed.pairs(0.5)) == {(P, E)}


def test_who_would_lose_by_it_is_no_trial() -> None:
    severed = Severed()
    severed.failed((P, D), 0.0)
    later = PAUSE + 1.0
    assert not severed.pairs(later)
    assert set(severed.pairs(later, trials=False)) == {(P, D)}
    severed.worked((P, D))
    assert not severed.pairs(later, trials=False)


@pytest.mark.parametrize("strict", [True, False])
def test_where_no_way_between_the_roles_is_left_roles_are_not_kept(strict: bool) -> None:
    """Nor where nothing is known of the workers' speed."""
    def decision(*severed: Pair) -> Decision:
        facts = RequestFacts(tokens=1000, blocks=63, remaining=8, severed=severed,
                             strict_roles=strict)
        workers = [
            Candidate(who, role, 8, 0, 0, 1000)
            for who, role in ((P, "prefill"), (D, "decode"), (E, "decode"))
        ]
        found = decide(facts, workers)
        assert isinstance(found, Decision)
        return found

    assert decision((P, D)).route == "remote"
    alone = decision((P, D), (P, E))
    assert (alone.route, alone.reason) == ("local", "severed")


# -- loans go over the same links ----------------------------------------------------------------


LINK = LinkCurve(latency=1e-4, byte=0.0, spread=0.0, transfers=10)


def lender_for(*severed: Pair, others: tuple[Identity, ...] = ()) -> Identity | None:
    """Whom P is to borrow from, a prompt of which D has most, then E."""
    held = {D: 60, E: 40}
    facts = RequestFacts(
        tokens=1000, blocks=63, remaining=8, held=held, token_bytes=1, severed=severed,
        strict_roles=True,
        lenders=[
            Lender(who, blocks, {"p": LINK}) for who, blocks in held.items() if who not in others
        ],
    )
    workers = [
        Candidate(who, role, 8, 0, 0, 1000, model=WorkerModel(curve=CURVE))
        for who, role in ((P, "prefill"), (F, "decode"))
    ]
    decision = decide(facts, workers)
    assert isinstance(decision, Decision)
    assert decision.prefill == P
    return None if decision.loan is None else decision.loan.lender

def test_what_is_lent_travels_over_links_that_work() -> None:
    assert lender_for() == D
    assert lender_for((D, F), (P, E)) == D


@pytest.mark.parametrize("cut", [(D, P), (P, D)])
def test_no_loan_over_a_link_that_is_cut_in_either_direction(cut: Pair) -> None:
    assert lender_for(cut) == E
    assert lender_for(cut, others=(E,)) is None
    assert lender_for(cut, (E, P)) is None

"""Pairs of workers that cannot reach each other, with plain values."""

from __future__ import annotations

from baton.protocol.ids import Identity
from baton.router.severed import MOST_PAUSE, PAUSE, TRIAL, Severed

P, D, E = (Identity(name, 1) for name in "pde")


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

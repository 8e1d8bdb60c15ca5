"""How long streams stood still, and whether those that waited had their turn."""

from __future__ import annotations

import pytest

from baton.bench.faults.load import Seen
from baton.bench.faults.stalls import (
    longest_silence,
    longest_stall,
    stall_limit,
    turns_lost,
)


def stream(*times: float) -> Seen:
    return Seen(times=list(times), ended=times[-1])


def test_all_together_are_silent_for_less_than_one_alone() -> None:
    streams = [stream(1, 2, 9), stream(3, 4, 5), stream(6, 6.5)]
    assert longest_stall(streams) == 7
    assert longest_silence(streams) == 2.5
    assert longest_stall([]) == longest_silence([stream(1.0)]) == 0


def test_whoever_ends_while_another_waits_had_its_turn_first() -> None:
    waits = stream(1, 2, 9)
    assert turns_lost([waits, stream(1, 2), stream(8, 9)]) == 0
    assert turns_lost([waits, stream(3, 4), stream(5, 6), stream(1, 8.9)]) == 3


def test_a_death_costs_its_detection_and_half_as_much_again_as_the_recomputation() -> None:
    assert stall_limit(1.0, 1000, 500) == pytest.approx(1.0 + 0.1 + 3.0)

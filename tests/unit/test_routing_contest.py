"""Which system is better on the same requests, and how sure that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from baton.bench.routing.contest import Contest, hold
from baton.bench.routing.paired import Ratio, mean, ratio
from baton.bench.routing.prefix import evenness
from baton.bench.routing.systems import System
from baton.bench.routing.trial import Trial
from baton.bench.simulator.cluster import Run
from baton.bench.simulator.engine import Work
from baton.bench.simulator.outcome import Gaps, Outcome
from baton.protocol.records import Targets

TARGETS = Targets(ttft=1.0, itl=0.1)


def outcomes(attained: Sequence[bool], gap: float = 0.1) -> list[Outcome]:
    return [
        Outcome("chat", "interactive", n * gap, 100, "stop" if kept else "overloaded",
                11, 0.5 if kept else None, 1.5 if kept else None, targets=TARGETS)
        for n, kept in enumerate(attained)
    ]


def some(share: float, seed: int, count: int = 600) -> list[Outcome]:
    random = Random(seed)
    return outcomes([random.random() < share for _ in range(count)])


# -- ratios ----------------------------------------------------------------------------------


def test_the_same_is_one_and_sure() -> None:
    runs = [some(0.8, seed) for seed in (1, 2)]
    assert ratio(runs, runs) == Ratio(1.0, 1.0, 1.0)
    assert ratio([], []) == Ratio(1.0, 1.0, 1.0)
    assert ratio([outcomes([True] * 100)], [outcomes([True] * 50)]) == (2.0, 0.0, math.inf)
    assert str(Ratio(0.98, 0.9, 1.06)) == "0.980 (0.900 to 1.060)"


def test_what_chance_makes_is_within_the_bounds_as_often_as_they_say() -> None:
    """Two systems that are equally good: 1 lies within in about nine of ten cases."""
    within = 2 * sum(
        low <= 1.0 <= high
        for seed in range(30)
        for _, low, high in [ratio([some(0.8, seed)], [some(0.8, seed + 1000)])]
    )
    assert 47 <= within <= 59


def test_what_is_hard_about_a_block_is_so_for_both() -> None:
    """Half of the time nothing is attained by anybody; the ratio is sure all the same."""
    hard = [n % 100 < 50 for n in range(600)]
    ours = outcomes([kept and n % 10 != 0 for n, kept in enumerate(hard)])
    found = ratio([ours], [outcomes(hard)])
    assert found.value == pytest.approx(0.9)
    assert found.high - found.low < 0.02
    shuffled = outcomes(Random(1).sample(hard, len(hard)))
    unpaired = ratio([ours], [shuffled])
    assert unpaired.high - unpaired.low > 0.1


def test_more_seeds_are_surer() -> None:
    def width(seeds: int) -> float:
        ours, theirs = (
            [some(share, first + seed) for seed in range(seeds)]
            for share, first in ((0.8, 0), (0.7, 99))
        )
        found = ratio(ours, theirs)
        assert found.value == pytest.approx(0.8 / 0.7, rel=0.1)
        return found.high - found.low

    assert width(16) < 0.6 * width(2)


def test_half_and_twice_are_even() -> None:
    assert mean([0.5, 2.0]) == pytest.approx(1.0)
    assert mean([0.9, 0.9]) == pytest.approx(0.9)
    assert mean([]) == 0.0


# -- contests --------------------------------------------------------------------------------


class Runs:
    """Systems as good as `worth` says, seed by seed; which of them ran is kept."""

    def __init__(self, worth: dict[str, float | list[float]], usual: float = 0.5) -> None:
        self.worth = worth
        self.usual = usual
        self.ran: list[tuple[int, list[str]]] = []

    def __call__(self, systems: Sequence[System], seed: int) -> list[Trial]:
        self.ran.append((seed, [system.name for system in systems]))
        return [self._trial(system.name, seed) for system in systems]

    def _trial(self, name: str, seed: int) -> Trial:
        share = self.worth.get(name, self.usual)
        if isinstance(share, list):
            share = share[seed - 1]
        kept = [n < round(share * 100) for n in range(100)]
        return Trial(name, None, outcomes(kept), 10.0)  # type: ignore[arg-type]


def test_the_best_is_the_best_of_all_seeds_together() -> None:
    """Who is lucky with one seed is not the best; each seed's best would be 0.9 and 0.92."""
    runs = Runs({"auto": 0.85, "split 2+2": [0.9, 0.82], "split 1+3": [0.82, 0.92]})
    contest = hold(4, [1, 2], runs)
    assert contest.best == "split 1+3"
    assert contest.ratio.value == pytest.approx(1.7 / 1.74)
    row = contest.row("chat")
    assert (row.holds, row.what) == (True, "chat, against split 1+3")
    assert row.seen.startswith("0.977 (")
    assert not hold(4, [1, 2], Runs({"auto": 0.8, "split 2+2": 0.9})).row("chat").holds


def test_what_is_plainly_worse_is_not_run_again() -> None:
    runs = Runs({"auto": 0.8, "split 2+2": 0.9, "colocated 512": 0.85})
    contest = hold(4, [1, 2], runs)
    assert len(runs.ran[0][1]) == 1 + 3 + 4
    assert runs.ran[1] == (2, ["auto", "split 2+2", "colocated 512"])
    assert [len(trials) for trials in contest.trials()].count(2) == 3


def test_of_many_workers_splits_are_tried_where_they_are_best() -> None:
    worth = {f"split {n}+{32 - n}": 0.9 - abs(n - 21) / 100 for n in range(1, 32)}
    runs = Runs({"auto": 0.9, **worth}, usual=0.1)
    contest = hold(32, [1], runs)
    assert contest.best == "split 21+11"
    tried = [name for _, names in runs.ran for name in names if name.startswith("split")]
    assert len(tried) == len(set(tried)) < 14


def test_only_some_systems_on_request() -> None:
    runs = Runs({"auto": 0.8})
    contest = hold(16, [1, 2], runs, ["colocated 64"])
    assert [names for _, names in runs.ran] == [["auto", "colocated 64"]] * 2
    assert contest.best == "colocated 64"
    assert Contest().ratio == Ratio(1.0, 1.0, 1.0)


# -- evenness --------------------------------------------------------------------------------


def test_load_is_time_not_tokens() -> None:
    """One prefill worker reads all prompts while the other one decodes as long."""
    work = {
        "prefill-0": Work(busy=8.0, prompt_tokens=4000), "prefill-1": Work(busy=4.0),
        "decode-2": Work(busy=99.0, prompt_tokens=99),
    }
    run = Run(outcomes=[], gaps=Gaps(), work=work, role_changes=[], decisions=Counter(),
              retries=Counter(), circuits=[], seconds=10.0, events=0)
    trial = Trial("auto", run, [], 10.0)
    assert evenness(trial) == pytest.approx(8 / 6)
    assert evenness(trial, "prompt_tokens") == 2.0
    assert evenness(Trial("auto", replace(run, work={}), [], 10.0)) == 1.0

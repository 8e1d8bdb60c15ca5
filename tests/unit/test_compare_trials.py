"""The order of a comparison, on layouts whose capacity is known."""

from __future__ import annotations

import pytest

from baton.bench.compare.layouts import Layout
from baton.bench.compare.measure import Point, Run
from baton.bench.compare.phases import Phases
from baton.bench.compare.trials import Trials

A = Layout("colocated 128", "colocated")
B = Layout("colocated 512", "colocated")
SPLIT = Layout("split 1+1", "split")
PEER = Layout("vllm", "peer", url="http://x")
CAPACITY = {"colocated 128": 1.0, "colocated 512": 1.9, "split 1+1": 3.0, "vllm": 2.0}


class Bench:
    """Requests beyond a layout's capacity miss their targets."""

    def __init__(self, tails: dict[str, float] | None = None) -> None:
        self.calls: list[tuple[str, float, int, int]] = []
        self.given_up: list[float | None] = []
        self.tails = tails or {}
        self.trials = Trials(self.once, wanted=0.9, seed=7, tell=lambda text: None)

    def once(
        self, layout: Layout, rate: float, repetition: int, seed: int, give_up: float | None
    ) -> Run:
        self.given_up.append(give_up)
        self.calls.append((layout.name, rate, repetition, seed))
        attained = min(1.0, CAPACITY[layout.name] / rate)
        point = Point(
            layout=layout.name, family=layout.family, rate=rate, repetition=repetition, seed=seed,
            figures={"attainment": attained, "goodput_per_s": attained * rate, "requests": 9.0,
                     "itl_p99_ms": self.tails.get(layout.name, 50.0)},
            ends={}, phases={},
        )
        return Run(point=point, phases=Phases({}, 0, 0, 0), seen=[])


def test_layouts_take_turns_and_turn_round() -> None:
    bench = Bench()
    bench.trials.repeat([A, SPLIT], [0.5, 1.0], 2)
    assert [(name, rate) for name, rate, _, _ in bench.calls] == [
        ("colocated 128", 0.5), ("split 1+1", 0.5), ("colocated 128", 1.0), ("split 1+1", 1.0),
        ("split 1+1", 0.5), ("colocated 128", 0.5), ("split 1+1", 1.0), ("colocated 128", 1.0),
    ]


def test_a_pair_has_the_same_requests_and_no_other_two_do() -> None:
    bench = Bench()
    bench.trials.repeat([A, PEER], [0.5, 1.0], 3)
    seeds: dict[tuple[float, int], set[int]] = {}
    for _, rate, repetition, seed in bench.calls:
        seeds.setdefault((rate, repetition), set()).add(seed)
    assert all(len(each) == 1 for each in seeds.values())
    assert len(set.union(*seeds.values())) == len(seeds) == 6


def test_searches_meet_the_same_requests_at_all_rates_unless_caches_stay() -> None:
    bench = Bench()
    bench.trials.capacities([A, PEER], 1.0, 1)
    mine = {seed for name, _, _, seed in bench.calls if name == A.name}
    theirs = [seed for name, _, _, seed in bench.calls if name == PEER.name]
    assert mine == {7}
    assert len(set(theirs)) == len(theirs) > 3


def test_capacities_are_found_and_found_again_sooner() -> None:
    bench = Bench()
    found = bench.trials.capacities([SPLIT], 0.5, 3, most=12)
    for capacity in found["split 1+1"]:
        # 0.9 of the requests are in time up to 3.33.
        assert 3.1 < capacity.holds <= 10 / 3 < capacity.fails
    first, second, third = (sum(n == k for _, _, n, _ in bench.calls) for k in range(3))
    assert second < first
    assert third < first
    assert len(bench.trials.probes) == len(bench.calls)
    assert set(bench.given_up) == {0.9}
    bench.trials.repeat([A], [0.5], 1)
    assert bench.given_up[-1] is None, "what is told is measured to its end"


def test_tuning_goes_up_until_the_members_differ() -> None:
    bench = Bench()
    assert bench.trials.tune([A, B, SPLIT], 0.5) == [B, SPLIT]
    rates = [rate for name, rate, _, _ in bench.calls if name == B.name]
    assert rates == pytest.approx([0.5, 0.75, 1.125, 1.6875])
    assert not any(name == SPLIT.name for name, *_ in bench.calls), "it is alone in its family"
    assert not bench.trials.runs


def test_of_equals_the_shorter_tail_is_chosen() -> None:
    bench = Bench(tails={A.name: 20.0})
    bench.trials.tune([B, A], 0.1)
    assert bench.trials.tune([B, A], 0.1) == [A]


def test_who_falls_far_behind_is_not_tried_further() -> None:
    bench = Bench()
    bench.trials.tune([A, B], 1.5)
    assert [name for name, *_ in bench.calls].count(A.name) == 1

"""What chose a layout does not say how good it is, and seeds that have their requests in common do
not say how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from planned import kind

from baton.bench.planning import survivors
from baton.bench.planning.candidates import all_candidates
from baton.bench.planning.doubts import repeated
from baton.bench.planning.limits import Limits
from baton.bench.planning.loads import Stated, Trace
from baton.bench.planning.processes import Effort, Setting, processes
from baton.bench.planning.run import RunFigures, Span, run_load
from baton.bench.planning.search import Border
from baton.bench.planning.slices import Slice
from baton.bench.planning.survivors import Survivor, simulate
from baton.bench.planning.wishes import Wishes
from baton.bench.workloads.lengths import Lengths
from baton.bench.workloads.traces import Traced
from baton.protocol.records import Targets

KINDS = (kind(),)
WISHES = Wishes(ttft=0.3, itl=0.03)
LOAD = Stated(Lengths(prompt=400, output=16))
WORKLOAD = LOAD.sample(WISHES.targets)
TARGETS = Targets(ttft=0.3, itl=0.03)
CHOOSES = 1
"""The seed that layouts are chosen with."""


def setting(seeds: int, per_shape: int) -> Setting:
    effort = Effort(per_shape=per_shape, kept=1, requests=60, lives=1.0, tokens=0, seeds=seeds,
                    rounds=0, precise=0.1)
    return Setting(kinds=KINDS, load=LOAD, workload=WORKLOAD, wishes=WISHES, effort=effort,
                   seed=CHOOSES)


@pytest.fixture
def luck(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """All layouts carry 10 requests per second; the seed that chooses says up to twice that. The
    seeds that were looked at."""
    found = run_load(KINDS_LAYOUT, KINDS, LOAD, WISHES, rate=2.0, span=Span(0, 5, 0), seed=1)
    seeds: list[int] = []

    def border(setting: Setting, *, part: Slice, seed: int, **named: Any) -> tuple[Border, Any]:
        seeds.append(seed)
        lucky = 20.0 if seed == CHOOSES and part.layout.count("decode") == 1 else 10.0
        return Border(lucky, ()), ()

    def look(setting: Setting, *, seed: int, **named: Any) -> RunFigures:
        return replace(found, seed=seed)

    monkeypatch.setattr(survivors, "find_border", border)
    monkeypatch.setattr(survivors, "look", look)
    return seeds


KINDS_LAYOUT = all_candidates(KINDS, Limits(gpus=1, prices=(None,)), WORKLOAD)[0].layout


def best_of(gpus: int, here: Setting, shapes: Sequence[str] = ("disaggregated",)) -> Survivor:
    limits = Limits(gpus=gpus, prices=(None,))
    candidates = all_candidates(KINDS, limits, WORKLOAD, shapes)
    with processes(here, 1) as run:
        return simulate(candidates, limits, here, run)[0][0]


def test_the_best_by_luck_are_as_good_as_without_it(luck: list[int]) -> None:
    best = best_of(4, setting(seeds=3, per_shape=3))
    assert best.candidate.layout.count("decode") == 1, "luck chose it"
    assert best.rates == [10.0, 10.0, 10.0]
    assert best.capacity == 10.0
    assert [seen.seed for seen in best.seen] == [2, 3, 4], "nor do its latencies have that seed"


def test_a_seed_that_chose_nothing_counts(luck: list[int]) -> None:
    best = best_of(2, setting(seeds=3, per_shape=3))
    assert best.rates == [20.0, 10.0, 10.0], "there was one layout"
    assert luck == [1, 2, 3], "and no more is simulated than needed"


def test_all_layouts_have_the_same_seeds(luck: list[int]) -> None:
    """Of some shapes there is one layout, of others several; seeds are compared one by one."""
    here, limits = setting(seeds=2, per_shape=3), Limits(gpus=3, prices=(None,))
    with processes(here, 1) as run:
        found, _ = simulate(all_candidates(KINDS, limits, WORKLOAD), limits, here, run)
    assert len(found) == 3
    assert {tuple(seen.seed for seen in survivor.seen) for survivor in found} == {(2, 3)}
    assert {len(survivor.rates) for survivor in found} == {2}


# -- seeds of a trace ------------------------------------------------------------------------


def trace(requests: int) -> Trace:
    return Trace("t", tuple(Traced(n * 0.5, 100 + n % 7, 5) for n in range(requests)))


def served(here: Trace, seed: int, requests: int) -> set[int]:
    """Which of its requests a seed has: prompts that nobody else has are named by number."""
    first = next(iter(here.arrivals(2.0, 0.6, seed, TARGETS)))
    at = next(n for n, traced in enumerate(here.requests)
              if len(first.prompt()) // 4 == traced.prompt)
    return {(at + n) % len(here.requests) for n in range(requests)}


def test_no_two_seeds_are_the_same() -> None:
    here = Trace("t", tuple(Traced(n * 0.5, 100 + n, 5) for n in range(1000)))
    firsts = {len(next(iter(here.arrivals(2.0, 1.0, seed, TARGETS))).prompt())
              for seed in range(1, 41)}
    assert len(firsts) == 40, "seeds 1 and 17 among them"


@pytest.mark.parametrize("count", [3, 5, 8])
def test_how_many_seeds_are_unlike_is_counted(count: int) -> None:
    here = Trace("t", tuple(Traced(n * 0.5, 100 + n, 5) for n in range(1000)))
    seeds = range(4, 4 + count)
    for requests in (20, 150, 400, 900):
        together = set().union(*(served(here, seed, requests) for seed in seeds))
        assert here.unlike(seeds, requests) == pytest.approx(len(together) / requests, rel=0.05)
    assert here.unlike(seeds, 20) == pytest.approx(count), "nothing in common"
    assert here.unlike(seeds, 2000) == 0.5


def test_a_plan_says_when_a_trace_is_too_short() -> None:
    candidate = all_candidates(KINDS, Limits(gpus=1, prices=(None,)), WORKLOAD)[0]
    run = run_load(candidate.layout, KINDS, LOAD, WISHES, rate=2.0, span=Span(0, 5, 0), seed=1)
    seen = [replace(run, seed=seed, requests=300) for seed in (2, 3, 4)]
    here = [Survivor(candidate, seen=seen)]
    assert repeated(trace(10_000), here) == []
    (said,) = repeated(trace(600), here)
    assert "too short for independent seeds: of its 600 requests a run counts up to 300" in said
    assert "3 seeds are worth 2;" in said or "3 seeds are worth 1." in said
    (said,) = repeated(trace(100), here)
    assert "3 seeds are worth 0.333" in said
    assert repeated(trace(100), [Survivor(candidate)]) == []

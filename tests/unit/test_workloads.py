"""What clients ask for and when: the named workloads, processes of arrival, stated lengths."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean, stdev

import pytest

from baton.bench.workloads.arrivals import Fit, arrivals
from baton.bench.workloads.lengths import Lengths
from baton.bench.workloads.named import KINDS, WORKLOADS, check_name, listed
from baton.bench.workloads.processes import times
from baton.bench.workloads.traces import read_trace, replay
from baton.bench.workloads.workload import Part
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.protocol.tokens import unpack_tokens

ASKED_FOR = {"chat", "code", "summarise", "agent", "rag-long", "mixed-shift", "burst"}


def test_a_suite_with_names() -> None:
    assert set(WORKLOADS) >= ASKED_FOR
    assert all(name in listed() for name in WORKLOADS)
    with pytest.raises(ConfigError, match=r"no workload 'nothing'; there are: chat"):
        check_name("nothing")


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_asks_at_the_rate_and_for_the_lengths_it_says(name: str) -> None:
    workload = WORKLOADS[name]
    for phase in workload.phases:
        assert sum(share for _, share in phase.mix) == pytest.approx(1.0)
    stream = list(arrivals(workload.parts(4.0, 400.0), seed=2))
    assert [a.at for a in stream] == sorted(a.at for a in stream)
    assert len(stream) / 400 == pytest.approx(4.0, rel=0.3)
    for kind in workload.kinds:
        lengths = [a.length - 1 for a in stream if a.kind == kind.name]
        assert mean(lengths) == pytest.approx(kind.output, rel=0.25), kind.name


def test_the_longest_prompts_share_passages_that_are_popular() -> None:
    stream = list(arrivals([Part("rag-long", 1.0, 0.0, 60.0)], seed=1))
    lengths = [len(a.prompt()) // 4 for a in stream]
    assert 6000 < mean(lengths) < 12_000
    heads = Counter(a.prompt()[: 4 * (512 + 1536)] for a in stream)
    assert len({head[: 4 * 512] for head in heads}) == 1, "instructions are the same for all"
    assert 1 < heads.most_common(1)[0][1] < len(stream) / 2
    assert KINDS["rag-long"].prompt == pytest.approx(mean(lengths), rel=0.2)


def test_a_load_that_shifts_has_its_phases_one_after_the_other() -> None:
    stream = list(arrivals(WORKLOADS["mixed-shift"].parts(8.0, 400.0), seed=1))
    share = [
        sum(a.kind == "code" for a in stream if start <= a.at < start + 100)
        / sum(start <= a.at < start + 100 for a in stream)
        for start in (0, 100, 200, 300)
    ]
    assert share == pytest.approx([0.85, 0.0, 0.85, 0.5], abs=0.06)


def test_lengths_fit_small_models() -> None:
    parts = [Part("conversation", 2.0, 0.0, 60.0)]
    fit = Fit(longest=300, max_tokens=20, lengths=0.1, vocabulary=50)
    small, usual = list(arrivals(parts, 1, fit=fit)), list(arrivals(parts, 1))
    assert 0 < len(small) <= len(usual)
    assert max(len(a.prompt()) // 4 for a in small) <= 300
    assert max(a.length for a in small) == 20
    assert len(small[0].prompt()) == pytest.approx(len(usual[0].prompt()) / 10, rel=0.05)
    first = unpack_tokens(small[0].prompt())
    assert 3 <= min(first) <= max(first) < 50


# -- stated lengths --------------------------------------------------------------------------


def test_stated_lengths_are_exact() -> None:
    stream = list(arrivals(Lengths(prompt=512, output=64).workload().parts(5.0, 40.0), 1))
    assert {(len(a.prompt()) // 4, a.length) for a in stream} == {(512, 64)}
    assert len({a.prompt()[:64] for a in stream}) == len(stream), "nothing is shared"


def test_prompts_share_as_much_as_is_asked_for() -> None:
    lengths = Lengths(prompt=200, output=10, shared=0.75, groups=3)
    stream = list(arrivals(lengths.workload().parts(20.0, 20.0), 1))
    assert {len(a.prompt()) // 4 for a in stream} == {200}
    heads = Counter(a.prompt()[: 4 * 150] for a in stream)
    assert len(heads) == 3
    assert min(heads.values()) > len(stream) / 6
    assert len({a.prompt()[: 4 * 154] for a in stream}) == len(stream)


def test_lengths_spread_and_sessions_have_turns() -> None:
    spread = Lengths(prompt=200, output=50, spread=0.5).workload()
    prompts = [len(a.prompt()) // 4 for a in arrivals(spread.parts(20.0, 40.0), 1)]
    assert stdev(prompts) > 50
    assert 50 <= min(prompts) <= max(prompts) <= 800
    turns = list(arrivals(Lengths(prompt=100, output=11, turns=3).workload().parts(3.0, 60.0), 1))
    [mine] = [[a for a in turns if a.session == turns[0].session]]
    assert [len(a.prompt()) // 4 for a in mine] == [100, 210, 320]


# -- when ------------------------------------------------------------------------------------


def test_constant_intervals_are_constant() -> None:
    at = list(times(Random(1), 8.0, 2.0, 4.0, variation=0.0))
    assert at == [2 + n / 8 for n in range(1, 16)]


@pytest.mark.parametrize("variation", [0.0, 1.0, 2.0])
def test_a_ramp_changes_its_rate_linearly(variation: float) -> None:
    at = list(times(Random(5), 100.0, 10.0, 50.0, variation, last_rate=300.0))
    assert all(a <= b for a, b in pairwise(at))
    assert 10.0 <= at[0] <= at[-1] < 50.0
    tolerance = 0.02 if variation == 0 else 0.15
    for start, rate in ((10, 125), (20, 175), (30, 225), (40, 275)):
        seen = sum(start <= t < start + 10 for t in at) / 10
        assert seen == pytest.approx(rate, rel=tolerance)
    falling = list(times(Random(5), 300.0, 0.0, 40.0, variation, last_rate=0.0))
    assert len(falling) == pytest.approx(6000, rel=0.1)
    assert sum(t < 20 for t in falling) / len(falling) == pytest.approx(0.75, rel=0.05)


def test_a_workload_ramps_over_all_its_phases() -> None:
    parts = WORKLOADS["mixed-shift"].parts(2.0, 40.0, last_rate=6.0, variation=0.0)
    by_start = {part.start: 0.0 for part in parts}
    ends = dict(by_start)
    for part in parts:
        by_start[part.start] += part.rate
        ends[part.start] += part.last_rate or 0.0
    assert list(by_start.values()) == pytest.approx([2.0, 3.0, 4.0, 5.0])
    assert list(ends.values()) == pytest.approx([3.0, 4.0, 5.0, 6.0])


# -- BurstGPT --------------------------------------------------------------------------------


def test_burst_gpt(tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n"
        "45,ChatGPT,1087,0,1087,Conversation log\n"  # it failed
        "118,GPT-4,417,276,693,API log\n"
    )
    trace = read_trace(path)
    assert [(t.at, t.prompt, t.output) for t in trace] == [(0.0, 472, 18), (113.0, 417, 276)]
    [_, second] = replay(trace, speed=10.0, longest=999, max_tokens=100, targets=Targets(),
                         vocabulary=64)
    assert (second.at, second.length) == (11.3, 100)
    assert max(unpack_tokens(second.prompt())) < 64

"""A capacity is what can be kept up: runs that last long enough, slices of what is too large, a
search that goes no further than is possible, and the silence of routers that are not real."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
from planned import kind

from baton.bench.planning import steady
from baton.bench.planning.candidates import Candidate, closed_of, model_of
from baton.bench.planning.doubts import doubts
from baton.bench.planning.layout import parse_layout
from baton.bench.planning.loads import Stated
from baton.bench.planning.processes import Effort, Setting
from baton.bench.planning.run import RunFigures, Span, run_load
from baton.bench.planning.search import Border, highest
from baton.bench.planning.slices import Slice, slice_of
from baton.bench.planning.steady import Length, longest_life, run_steady, span_of
from baton.bench.planning.survivors import Survivor, ceiling_of, find_border
from baton.bench.planning.wishes import Wishes
from baton.bench.simulator.cluster import Cluster
from baton.bench.simulator.quiet import quiet
from baton.bench.workloads.lengths import Lengths
from baton.router.planner.workload import Item, Workload

KINDS = (kind(),)
WISHES = Wishes(ttft=0.3, itl=0.03)
LOAD = Stated(Lengths(prompt=400, output=16))
WORKLOAD = LOAD.sample(WISHES.targets)
LENGTH = Length(requests=60, lives=6.0)


def candidate(code: str) -> Candidate:
    layout = parse_layout(code, KINDS)
    return Candidate(layout, model_of(layout, KINDS, WORKLOAD))


def slice_for(code: str, tokens: float) -> Slice:
    return slice_of(candidate(code), KINDS, WORKLOAD, WISHES, length=LENGTH, tokens=tokens,
                    sessions=False)


# -- how long --------------------------------------------------------------------------------


def test_a_rate_that_is_ten_times_as_high_is_ten_times_as_many_requests() -> None:
    slow, fast = (span_of(2.0, WISHES, rate, LENGTH, sessions=False) for rate in (100.0, 1000.0))
    assert slow == fast == Span(2.5, 12.0, 0.5)
    patient = replace(WISHES, ttft=5.0)
    assert span_of(2.0, patient, 100.0, LENGTH, sessions=False).counted == 60.0
    assert span_of(2.0, WISHES, 1.0, LENGTH, sessions=False).counted == 60.0, "60 requests"
    assert span_of(2.0, WISHES, 100.0, LENGTH, sessions=True).warm == 30.0


def test_a_life_is_never_longer_than_targets_allow() -> None:
    workload = Workload(1.0, (Item(100, 0, 101, 1.0, 0.05),))
    assert longest_life(workload, Wishes(ttft=1.0, itl=0.05)) == pytest.approx(6.0)
    assert longest_life(workload, Wishes(ttft=1.0, itl=0.05, e2e=4.0)) == 4.0


def test_a_burst_fits_into_the_ttft_target_but_its_rate_cannot_be_kept_up() -> None:
    """A dozen prompts within some milliseconds are read in time; so many for seconds are not."""
    layout, rate, wishes = parse_layout("1m", KINDS), 400.0, replace(WISHES, ttft=1.0)
    assert rate > 10 * closed_of(candidate("1m"), 0.95).rate
    burst = run_load(layout, KINDS, LOAD, wishes, rate=rate, span=Span(0.0, 0.0125, 0.0), seed=1)
    assert burst.requests > 10
    assert burst.attainment == 1.0
    short = Length(requests=60, lives=1.5)
    _, kept_up = run_steady(
        layout, KINDS, LOAD, WORKLOAD, wishes, rate=rate, length=short, seed=1
    )
    assert kept_up.requests > 1000
    assert kept_up.attainment < 0.1


def test_a_run_is_repeated_where_requests_live_longer_than_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steady, "expected_life", lambda *_: 0.05)
    spans = []

    def watched(*args: object, span: Span, **named: object) -> RunFigures:
        spans.append(span)
        return run_load(*args, span=span, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(steady, "run_load", watched)
    span, seen = run_steady(parse_layout("1m", KINDS), KINDS, LOAD, WORKLOAD, WISHES, rate=5.0,
                            length=LENGTH, seed=1)
    lived = sum(seen.e2e) / len(seen.e2e)
    assert len(spans) == 2
    assert spans[1] == span
    assert spans[0].warm < lived < spans[1].warm


# -- slices ----------------------------------------------------------------------------------


def test_what_is_small_enough_is_simulated_whole() -> None:
    assert slice_for("2p+6d", math.inf) == Slice(parse_layout("2p+6d", KINDS), 1.0)


@pytest.mark.parametrize(("code", "part"), [
    ("8m", "1m"), ("4p+4d", "1p+1d"), ("4m+4d", "1m+1d"),
])
def test_a_slice_has_the_ratio_of_roles_or_nearly(code: str, part: str) -> None:
    found = slice_for(code, 1.0)  # as small as can be
    assert found.layout == parse_layout(part, KINDS)
    ratio = closed_of(candidate(code), 0.95).rate / closed_of(candidate(part), 0.95).rate
    assert found.scale == pytest.approx(ratio)


@pytest.mark.parametrize(("code", "binds", "part"), [
    ("2p+6d", "decode", "1p+3d"),  # 1p+1d would end with a target
    ("1p+7m", "all", "~2m"),  # 1p+1m as well
])
def test_what_ends_a_slice_ends_the_whole(code: str, binds: str, part: str) -> None:
    writing = Workload(1.0, (Item(100, 0, 200, 0.3, 0.03),))
    layout = parse_layout(code, KINDS)
    here = Candidate(layout, model_of(layout, KINDS, writing))
    assert closed_of(here, 0.95).binds == binds
    found = slice_of(here, KINDS, writing, WISHES, length=LENGTH, tokens=1.0, sessions=False)
    assert found.layout == parse_layout(part, KINDS)


def test_more_may_be_simulated_where_there_is_time_for_it() -> None:
    sizes = [slice_for("16m", tokens).layout.workers for tokens in (1.0, 2e4, 6e4, 1e6)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert 1 < sizes[1] < sizes[2] < sizes[3] == 16, sizes


def test_a_slice_says_what_the_whole_would() -> None:
    setting = Setting(
        kinds=KINDS, load=LOAD, workload=WORKLOAD, wishes=WISHES,
        effort=Effort(per_shape=1, kept=1, requests=60, lives=3.0, tokens=0, seeds=1, rounds=0,
                      precise=0.1),
    )
    rates = []
    for part in (slice_for("4m", 1.0), slice_for("4m", math.inf)):
        border, points = find_border(
            setting, part=part, start=closed_of(candidate("4m"), 0.95).rate, seed=1,
            precise=0.1, ceiling=ceiling_of(candidate("4m")),
        )
        rates.append(border.rate)
        assert all(0.2 * border.rate < point.rate < 4 * border.rate for point in points)
    assert rates[0] == pytest.approx(rates[1], rel=0.25)


# -- no more than is possible ----------------------------------------------------------------


def test_the_search_goes_no_further_than_resources_allow() -> None:
    asked = []

    def look(rate: float) -> tuple[float, float]:
        asked.append(rate)
        return 1.1 * rate, 1.0

    assert highest(look, 3.0, 0.95, ceiling=10.0).rate == 10.0
    assert max(asked) == 10.0
    assert highest(look, 50.0, 0.95, ceiling=10.0).rate == 10.0, "nor does it begin beyond"


def test_no_layout_is_said_to_serve_more_than_its_busiest_resource_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a simulation says."""
    here = candidate("2p+2d")

    def always(*args: object, rate: float, **named: object) -> RunFigures:
        seen = run_load(here.layout, KINDS, LOAD, WISHES, rate=1.0, span=Span(0, 5, 0), seed=1)
        return replace(seen, came=rate, attainment=1.0)

    monkeypatch.setattr("baton.bench.planning.survivors.look", always)
    setting = Setting(
        kinds=KINDS, load=LOAD, workload=WORKLOAD, wishes=WISHES,
        effort=Effort(per_shape=1, kept=1, requests=60, lives=3.0, tokens=0, seeds=1, rounds=0,
                      precise=0.1),
    )
    border, _ = find_border(setting, part=Slice(here.layout, 1.0), start=1.0, seed=1, precise=0.1,
                            ceiling=ceiling_of(here))
    assert border.rate == pytest.approx(1.3 * here.model.bound)
    found = doubts([Survivor(here, [border])], KINDS, 0.95)
    assert any("more than its busiest resource allows" in line for line in found)


def test_simulation_and_closed_form_that_contradict_each_other_are_told() -> None:
    here = candidate("2m")
    closed = closed_of(here, 0.95).rate
    for factor, told in ((1.0, False), (1.2, False), (0.5, True), (0.0, True)):
        found = doubts([Survivor(here, [Border(factor * closed, ())])], KINDS, 0.95)
        assert any("simulation says" in line for line in found) == told, factor
    part = Survivor(here, [Border(closed, ())], part=Slice(parse_layout("1m", KINDS), 2.1))
    assert doubts([part], KINDS, 0.95) == [
        "2 mixed: 1 mixed was simulated, and closed forms say that the whole carries 2.1 times as "
        "much"
    ]


# -- silence ---------------------------------------------------------------------------------


def test_what_simulated_routers_warn_of_is_not_heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cluster = Cluster([("prefill", KINDS[0].machine)] * 3 + [("decode", KINDS[0].machine)], seed=1)
    cluster.loop.at(0.5, cluster.slow, "prefill-0", 12.0)
    run = cluster.run(LOAD.arrivals(12.0, 8.0, 1, WISHES.targets))
    assert [name for _, name, is_open in run.circuits if is_open], "there was something to say"
    assert [record.getMessage() for record in caplog.records] == []
    logging.getLogger("baton.router.vitals").warning("of a real one")
    assert caplog.messages == ["of a real one"]


def test_mistakes_of_the_code_are_heard_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = logging.getLogger("baton.router.harmless")
    with quiet():
        log.warning("a worker is slow")
        log.error("a mistake")
    assert caplog.messages == ["a mistake"]

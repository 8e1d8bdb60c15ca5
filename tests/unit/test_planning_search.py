"""The search for the highest rate, which layouts there are and how they are ranked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from planned import kind

from baton.bench.planning.break_even import crossing
from baton.bench.planning.candidates import (
    all_candidates,
    choose,
    closed_of,
    layouts,
    model_of,
)
from baton.bench.planning.estimates import estimate, percentiles, share
from baton.bench.planning.figures import figure
from baton.bench.planning.infeasible import smallest
from baton.bench.planning.layout import kind_name, make_layout, parse_layout
from baton.bench.planning.limits import Limits
from baton.bench.planning.search import highest
from baton.protocol.errors import ConfigError
from baton.router.planner.workload import Item, Workload

KINDS = (kind(1), kind(2, speed=1.8))
ONE = KINDS[:1]


def limits(gpus: int, kinds: int = 1, **changes: object) -> Limits:
    return replace(Limits(gpus=gpus, prices=(None,) * kinds), **changes)  # type: ignore[arg-type]


# -- the highest rate ------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1.0, 7.3, 30.0])
@pytest.mark.parametrize("border", [7.3, 8.0])
def test_the_border_is_found_from_either_side(start: float, border: float) -> None:
    asked = []

    def look(rate: float) -> tuple[float, float]:
        asked.append(rate)
        return rate, 0.95 - 0.05 * (rate - border)

    found = highest(look, start, 0.95, precise=0.05)
    assert found.rate == pytest.approx(border, rel=0.01)
    assert len(asked) <= 12
    assert [look.asked for look in found.looks] == asked


def test_the_border_is_in_what_came_not_in_what_was_asked_for() -> None:
    found = highest(lambda rate: (1.2 * rate, 1.0 if 1.2 * rate <= 6.0 else 0.5), 4.0, 0.9)
    assert found.rate == pytest.approx(6.0, rel=0.05)


def test_what_cannot_keep_a_target_at_all_is_given_up() -> None:
    asked = []

    def look(rate: float) -> tuple[float, float]:
        asked.append(rate)
        return rate, 0.0

    assert highest(look, 100.0, 0.9).rate == 0.0
    assert len(asked) == 7
    assert asked[-1] < 5.0


# -- layouts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "shape", "name"), [
    ("4m", "colocated", "4 mixed"),
    ("2p+1d", "disaggregated", "2 prefill + 1 decode"),
    ("~2p+1d", "hybrid", "2 prefill + 1 decode, by cost"),
    ("1p+2m", "hybrid", "1 prefill + 2 mixed"),
    ("~4m", "hybrid", "4 mixed, by cost"),
    ("1d+2m", "hybrid", "2 mixed + 1 decode"),
    ("2 prefill + 1 decode", "disaggregated", "2 prefill + 1 decode"),
])
def test_layouts_as_text(text: str, shape: str, name: str) -> None:
    layout = parse_layout(text, ONE)
    assert (layout.shape, layout.name(ONE)) == (shape, name)
    assert parse_layout(layout.code(ONE), ONE) == layout


def test_layouts_of_several_kinds() -> None:
    layout = parse_layout("2p@tp1+1d@tp2", KINDS)
    assert layout.devices(KINDS) == 4
    assert layout.code(KINDS) == "2p@tp1+1d@tp2"
    assert layout.name(KINDS) == "2 prefill TP1 + 1 decode TP2"
    unlike = (kind(1, name="h100"), kind(1, name="l40s"))
    assert [kind_name(unlike, place) for place in (0, 1)] == ["h100", "l40s"]


@pytest.mark.parametrize(("text", "said"), [
    ("2p", "leaves nobody to decode"),
    ("2d", "leaves nobody to prefill"),
    ("0p+1d", "is no layout such as"),
    ("two", "is no layout such as"),
    ("1p+1p+1d", "two pools for prefill"),
    ("1m@tp8", "no workers 'tp8'; there are: tp1, tp2"),
])
def test_layouts_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_layout(text, KINDS)


def test_all_layouts_use_all_devices_where_no_rate_is_given() -> None:
    found = list(layouts(KINDS, limits(3, 2)))
    assert len(found) == len(set(found))
    codes = {layout.code(KINDS) for layout in found}
    assert {"3m@tp1", "1m@tp2", "1p@tp1+2d@tp1", "1p@tp1+1d@tp2", "1p@tp2+1d@tp1"} <= codes
    assert "2m@tp1" not in codes, "a third would fit"
    with_rate = {layout.code(KINDS) for layout in layouts(KINDS, limits(3, 2, rate=1.0))}
    assert "2m@tp1" in with_rate
    assert all(layout.devices(KINDS) <= 3 for layout in layouts(KINDS, limits(3, 2, rate=1.0)))


def test_workers_that_may_do_both_are_worth_the_best_split_of_them() -> None:
    workload = Workload(1.0, (Item(1500, 0, 20, 1.0, 0.05),))
    free = model_of(parse_layout("~6m", ONE), ONE, workload)
    splits = [model_of(parse_layout(f"{p}p+{6 - p}d", ONE), ONE, workload) for p in range(1, 6)]
    colocated = model_of(parse_layout("6m", ONE), ONE, workload)
    assert free.bound == pytest.approx(max(m.bound for m in (*splits, colocated)))


# -- ranking ---------------------------------------------------------------------------------


def test_with_a_rate_the_smallest_that_serves_it_is_best() -> None:
    asked = limits(8, rate=10.0)
    layout = {n: make_layout(ONE, mixed=(n, 0)) for n in (2, 3, 4)}
    scores = {
        "enough": asked.score(10.5, layout[3], ONE),
        "more than enough": asked.score(20.0, layout[4], ONE),
        "enough, more to spare": asked.score(11.0, layout[3], ONE),
        "not enough": asked.score(9.9, layout[2], ONE),
        "even less": asked.score(5.0, layout[2], ONE),
    }
    ranked = sorted(scores, key=lambda name: scores[name], reverse=True)
    assert ranked == ["enough, more to spare", "enough", "more than enough", "not enough",
                      "even less"]


def test_without_a_rate_all_devices_count() -> None:
    """Two of three would serve more per device in use, but the third is there."""
    asked = limits(3)
    two, three = make_layout(ONE, mixed=(2, 0)), make_layout(ONE, mixed=(3, 0))
    assert asked.score(11.0, three, ONE) > asked.score(10.0, two, ONE)


def test_cost_ranks_by_money() -> None:
    kinds = (kind(1, name="dear"), kind(1, name="cheap", speed=0.5))
    asked = Limits(gpus=8, prices=(4.0, 1.0), cost=8.0, rate=10.0, by_cost=True)
    dear, cheap = make_layout(kinds, mixed=(2, 0)), make_layout(kinds, mixed=(5, 1))
    assert (asked.price(dear, kinds), asked.price(cheap, kinds)) == (8.0, 5.0)
    assert asked.score(10.0, cheap, kinds) > asked.score(12.0, dear, kinds)
    assert not asked.allows(make_layout(kinds, mixed=(3, 0)), kinds)


def test_the_chosen_are_the_best_of_each_shape() -> None:
    """Bounds end the search early; nothing that they left out is better."""
    workload = Workload(1.0, (Item(400, 0, 40, 0.3, 0.02), Item(1500, 300, 10, 0.3, 0.02)))
    asked = limits(6)
    found = all_candidates(ONE, asked, workload)
    chosen = choose(found, ONE, asked, 0.95, 2)
    for shape in ("colocated", "hybrid", "disaggregated"):
        rates = sorted(
            (closed_of(c, 0.95).rate for c in found if c.layout.shape == shape), reverse=True
        )[:2]
        mine = [closed_of(c, 0.95).rate for c in chosen if c.layout.shape == shape]
        assert mine == pytest.approx(rates)


def test_corrections_by_shape_change_who_is_chosen() -> None:
    workload = Workload(1.0, (Item(400, 0, 40, 0.3, 0.02),))
    asked = limits(8, rate=40.0)
    found = all_candidates(ONE, asked, workload)
    factors = {"colocated": 1.0, "hybrid": 1.0, "disaggregated": 1.0}
    plain = {c.layout.shape: c for c in choose(found, ONE, asked, 0.95, 1, factors)}
    halved = {c.layout.shape: c for c in choose(
        found, ONE, asked, 0.95, 1, {**factors, "disaggregated": 0.6})}
    assert halved["disaggregated"].layout.workers > plain["disaggregated"].layout.workers
    assert halved["colocated"].layout == plain["colocated"].layout


# -- figures ---------------------------------------------------------------------------------


def test_intervals_are_students() -> None:
    found = estimate([9.0, 10.0, 11.0])
    assert found.value == 10.0
    assert found.high - found.value == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert estimate([4.0]) == type(found)(4.0, 4.0, 4.0)
    assert share([0.98, 1.0, 1.0]).high == 1.0


def test_percentiles_are_of_each_run_first() -> None:
    found = percentiles([[0.1] * 99 + [1.0], [0.2] * 100])
    assert found.p50 is not None
    assert found.p50.value == pytest.approx(150.0)
    assert percentiles([[]]).p99 is None


@pytest.mark.parametrize(("value", "text"), [
    (4287.0, "4,290"), (0.012345, "0.0123"), (19.96, "20"), (1.5, "1.5"), (0.0, "0"),
    (99999.0, "100,000"), (5.886, "5.89"), (100.0, "100"), (math.inf, "inf"), (-2.5, "-2.5"),
])
def test_figures_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert figure(value) == text


# -- borders ---------------------------------------------------------------------------------


def test_the_crossing_nearest_to_here_is_found() -> None:
    def gain(factor: float) -> float:
        return -1.0 if factor < 0.2 or factor > 3.0 else 1.0

    at, below, above = crossing(gain, 1 / 8, 8.0)
    assert at == pytest.approx(3.0, rel=0.02)
    assert below > 0 > above
    assert crossing(lambda factor: 1.0, 1 / 8, 8.0) == (None, 1.0, 1.0)


def test_the_smallest_change_that_does() -> None:
    assert smallest(lambda f: f >= 3.0, 1.0, 64.0, 12) == pytest.approx(3.0, rel=0.01)
    assert smallest(lambda f: False, 1.0, 64.0) is None

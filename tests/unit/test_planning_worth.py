"""Per GPU and per cost have one meaning, wherever a plan says them: GPUs that are there and idle
count where all are to be used, and a budget is all that is to be spent."""

from __future__ import annotations

import io
from dataclasses import replace

import msgspec
import pytest
from planned import choice as plain
from planned import kind
from rich.console import Console

from baton.bench.planning.break_even import Axis, break_even
from baton.bench.planning.closed import Answer, World
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.html import page
from baton.bench.planning.layout import Layout, parse_layout
from baton.bench.planning.limits import Limits
from baton.bench.planning.loads import Stated
from baton.bench.planning.plan import Choice, Plan
from baton.bench.planning.planner import Asked, make_plan
from baton.bench.planning.processes import EFFORTS, Effort
from baton.bench.planning.sensitivity import sensitivity
from baton.bench.planning.table import show
from baton.bench.planning.verdict import tied, verdict
from baton.bench.planning.wishes import Wishes
from baton.bench.workloads.lengths import Lengths

WISHES = Wishes(ttft=0.3, itl=0.02)
LOAD = Stated(Lengths(prompt=400, output=16))
WIDE = (kind(4, speed=2.0),)
"""Of six GPUs two stay idle."""
UNLIKE = (kind(1, name="dear", speed=2.0), kind(1, name="cheap"))
BUDGET = Limits(gpus=10, prices=(3.0, 1.0), cost=10.0, by_cost=True)


@pytest.fixture(autouse=True)
def tiny_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", Effort(
        per_shape=1, kept=1, requests=60, lives=3.0, tokens=2_000, seeds=2, rounds=0,
        precise=0.2))


def made(kinds: tuple[WorkerKind, ...], limits: Limits) -> Plan:
    return make_plan(Asked(kinds=kinds, load=LOAD, wishes=WISHES, limits=limits, effort="quick",
                           jobs=1))


# -- one function ----------------------------------------------------------------------------


@pytest.mark.parametrize(("limits", "gpus"), [
    (Limits(gpus=6, prices=(None,)), 6),
    (Limits(gpus=6, prices=(None,), rate=1.0), 4),
    (Limits(gpus=6, prices=(None,), rate=1.0, use_all=True), 6),
    (Limits(gpus=6, prices=(2.0,), cost=13.0), 4),
])
def test_idle_gpus_count_where_all_are_to_be_used(limits: Limits, gpus: int) -> None:
    layout = parse_layout("1m", WIDE)
    assert limits.gpus_of(layout, WIDE) == limits.divisor(layout, WIDE) == gpus


@pytest.mark.parametrize(("limits", "money"), [
    (BUDGET, 10.0), (replace(BUDGET, rate=1.0), 7.0),
    (replace(BUDGET, rate=1.0, use_all=True), 10.0), (replace(BUDGET, cost=None), 7.0),
])
def test_a_budget_is_spent_where_all_is_to_be_used(limits: Limits, money: float) -> None:
    layout = parse_layout("2p@dear+1d@cheap", UNLIKE)
    assert limits.divisor(layout, UNLIKE) * 3600 == pytest.approx(money)


# -- everywhere ------------------------------------------------------------------------------


def told(plan: Plan) -> str:
    written = io.StringIO()
    show(plan, Console(file=written, width=250))
    return written.getvalue()


def cells(plan: Plan, choice: Choice) -> list[str]:
    line = next(line for line in told(plan).splitlines() if f" {choice.name} " in line)
    return [cell.strip() for cell in line.split("│")]


def test_four_gpus_of_six() -> None:
    limits = Limits(gpus=6, prices=(None,))
    plan = made(WIDE, limits)
    best = plan.choices[0]
    assert best.gpus == 4
    each = best.capacity_per_s / 6
    assert best.divisor == 6.0
    assert best.goodput_per_gpu == pytest.approx(each, rel=1e-4)
    shown = f"{each:.3g}"
    assert f"{shown} per GPU" in plan.verdict
    assert shown in cells(plan, best)
    assert f"<td>{shown}</td>" in page(plan)
    simulated = [line for line in plan.plots["frontier"] if line.name.startswith(best.name)]
    assert simulated[0].y == [pytest.approx(each, rel=1e-3)]
    closed = [line for line in plan.plots["frontier"] if line.shape == best.shape
              and "closed" in line.name]
    assert 0.5 < closed[0].y[3] / each < 1.5, "at the target itself, of the same GPUs"


def test_a_budget_of_unlike_prices() -> None:
    plan = made(UNLIKE, BUDGET)
    for choice in plan.choices:
        worth = choice.capacity_per_s * 3600 / 10.0
        assert choice.goodput_per_cost == pytest.approx(worth, rel=1e-3)
        assert choice.capacity_per_s / choice.divisor == pytest.approx(worth, rel=1e-3)
        assert choice.goodput_per_gpu == pytest.approx(choice.capacity_per_s / choice.gpus, 1e-3)
    worths = [choice.goodput_per_cost or 0.0 for choice in plan.choices]
    assert worths == sorted(worths, reverse=True), "ranked by what is shown"
    assert "for each unit of money" in plan.verdict
    assert "per GPU" not in plan.verdict
    assert "what a unit of money serves" in page(plan)
    assert "<th>per cost</th>" in page(plan)
    by_name = {line.name: line for line in plan.plots["frontier"]}
    best = plan.choices[0]
    assert by_name[f"{best.name}, simulated"].y[0] == pytest.approx(worths[0], rel=1e-3)


def unlike(capacity: float, divisor: float, shape: str, *, gpus: int) -> Choice:
    roles = {"mixed": gpus} if shape == "colocated" else {"prefill": gpus - 1, "decode": 1}
    return msgspec.structs.replace(
        plain(shape, roles, capacity=capacity, half=0.1), divisor=divisor,
        goodput_per_cost=capacity / divisor)


def test_a_tie_and_a_verdict_are_of_the_same_share() -> None:
    """Eight cheap GPUs for the money of two dear ones: twice as much for it, half per GPU."""
    dear = unlike(10.0, 2.0, "colocated", gpus=2)
    cheap = unlike(20.0, 2.0, "disaggregated", gpus=8)
    assert not tied(cheap, dear)
    text = verdict([cheap, dear], None, by_cost=True)
    assert "10 requests for each unit of money" in text
    assert "That is 100% more for the money than 2 mixed" in text
    idle = [replaced(one, divisor=6.0) for one in (unlike(12.0, 4.0, "colocated", gpus=4),
                                                   unlike(12.0, 6.0, "disaggregated", gpus=6))]
    assert tied(*idle), "of six GPUs both, two of which the one leaves idle"


def replaced(choice: Choice, divisor: float) -> Choice:
    return msgspec.structs.replace(choice, divisor=divisor)


# -- where it is a decision ------------------------------------------------------------------


def world(prices: tuple[float, ...], limits: Limits | None = None) -> World:
    return World(kinds=UNLIKE, limits=limits or Limits(gpus=4, prices=prices, by_cost=True),
                 workload=LOAD.sample(WISHES.targets), wishes=WISHES, factors={})


def test_break_even_is_for_the_same_money(monkeypatch: pytest.MonkeyPatch) -> None:
    """A colocated layout that serves less and costs a third of the other wins."""
    rates = {"2m@cheap": 9.0, "1p@dear+1d@dear": 10.0}

    def best(self: World, shapes: object = None) -> list[Answer]:
        return [Answer(parse_layout(code, UNLIKE), rate) for code, rate in rates.items()]

    monkeypatch.setattr(World, "best", best)
    axis = [Axis("prompt length", "tokens", 400.0, lambda factor: world((3.0, 1.0)))]
    assert break_even(world((3.0, 1.0)), axis)[0].below == "colocated"
    axis = [Axis("prompt length", "tokens", 400.0, lambda factor: world((1.0, 1.0)))]
    assert break_even(world((1.0, 1.0)), axis)[0].below == "disaggregated", "at one price"


def test_another_layout_is_named_only_if_it_is_worth_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, dear = parse_layout("2m@cheap", UNLIKE), parse_layout("1p@dear+1d@dear", UNLIKE)

    def capacity(self: World, layout: Layout) -> Answer:
        return Answer(layout, 9.0)

    monkeypatch.setattr(World, "capacity", capacity)
    monkeypatch.setattr(World, "best", lambda self, shapes=None: [Answer(dear, 12.0)])
    for prices, said in (((3.0, 1.0), False), ((1.0, 1.0), True)):
        texts = [change.text for change in sensitivity(world(prices), here)]
        assert any("would serve 12" in text for text in texts) == said, prices
        assert any("33% more for the money" in text for text in texts) == said

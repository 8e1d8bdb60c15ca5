"""`baton plan` as a whole, on workloads that take a second to simulate, and what it says beside
its figures."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from paced import write_profile
from planned import kind

from baton.bench.planning import command
from baton.bench.planning.break_even import break_even
from baton.bench.planning.candidates import Candidate, closed_of, model_of
from baton.bench.planning.closed import Answer, World
from baton.bench.planning.infeasible import infeasible
from baton.bench.planning.layout import parse_layout
from baton.bench.planning.limits import Limits
from baton.bench.planning.loads import Stated
from baton.bench.planning.plan import Plan, read_plan
from baton.bench.planning.planner import Asked, make_plan
from baton.bench.planning.processes import EFFORTS, Effort, Setting, processes
from baton.bench.planning.run import Span, run_load
from baton.bench.planning.search import Border
from baton.bench.planning.sensitivity import same_devices, sensitivity
from baton.bench.planning.survivors import Survivor, corrections
from baton.bench.planning.wishes import Wishes
from baton.bench.workloads.lengths import Lengths
from baton.deploy.planning import COMMANDS

WISHES = Wishes(ttft=0.3, itl=0.02)
LOAD = Stated(Lengths(prompt=400, output=16, spread=0.3, output_spread=0.0))
TINY = Effort(per_shape=1, kept=1, requests=60, lives=6.0, tokens=200_000, seeds=2, rounds=0,
              precise=0.1)


@pytest.fixture(autouse=True)
def tiny_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", TINY)


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    return write_profile(tmp_path / "profile.json", kind().machine.curve)


def world(gpus: int = 4, wishes: Wishes = WISHES, **changes: object) -> World:
    limits = replace(Limits(gpus=gpus, prices=(None,)), **changes)  # type: ignore[arg-type]
    return World(kinds=(kind(),), limits=limits, workload=LOAD.sample(wishes.targets),
                 wishes=wishes, factors={})


def asked(gpus: int, rate: float | None = None, wishes: Wishes = WISHES) -> Asked:
    return Asked(kinds=(kind(),), load=LOAD, wishes=wishes, effort="quick", jobs=1,
                 limits=Limits(gpus=gpus, prices=(None,), rate=rate))


# -- the whole -------------------------------------------------------------------------------


def test_a_plan_as_json(hardware: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    code = command.main(
        f"--hardware {hardware} --gpus 2 --prompt 400 --output 16 --ttft 300ms --itl 20ms "
        "--effort quick --jobs 1 --json".split()
    )
    made = msgspec.json.decode(capsysbinary.readouterr().out, type=Plan)
    assert code == made.code == 0
    shapes = [choice.shape for choice in made.choices]
    assert sorted(shapes) == ["colocated", "disaggregated", "hybrid"]
    per_gpu = [choice.goodput_per_gpu for choice in made.choices]
    assert per_gpu == sorted(per_gpu, reverse=True)
    for choice in made.choices:
        assert choice.gpus == 2
        seen = choice.simulated
        assert seen is not None
        assert seen.capacity_per_s.low <= choice.capacity_per_s <= seen.capacity_per_s.high
        assert seen.seeds == 2
        assert seen.ttft_ms.p50 is not None
        assert seen.ttft_ms.p99 is not None
        assert 0 < seen.ttft_ms.p50.value < seen.ttft_ms.p99.value
        assert all(pool.busy is not None and 0 < pool.busy.value <= 1 for pool in choice.pools)
        assert (choice.traffic is None) == (choice.shape == "colocated")
    assert any(change.what == "one more prefill worker" for change in made.sensitivity) == (
        "1p" in made.choices[0].layout
    )
    assert {entry.of for entry in made.break_even} == {
        "prompt length", "answer length", "ITL target", "link speed"
    }
    assert {"frontier", "ttft", "itl", "busy"} == set(made.plots)
    # Or what closed forms sort out could not be trusted.
    for choice in made.choices:
        assert 0.5 < choice.capacity_per_s / choice.forecast.capacity_per_s < 1.5, choice.name
    assert made.load.prompt_tokens == 400


def test_a_rate_that_one_worker_serves_needs_one(hardware: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    code = command.main(
        f"--hardware {hardware} --gpus 3 --prompt 400 --output 16 --ttft 400ms --itl 20ms "
        f"--rate 2/s --effort quick --jobs 1 --emit command --json {path}".split()
    )
    assert code == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("baton up --mixed 1 ")
    made = read_plan(path)
    assert made.choices[0].name == "1 mixed"
    assert made.choices[0].feasible
    assert made.choices[0].goodput_per_gpu == 2.0
    assert made.question.rate_per_s == 2.0


def test_targets_that_nobody_keeps_exit_with_two(
    hardware: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = command.main(
        f"--hardware {hardware} --gpus 2 --prompt 400 --output 16 --ttft 20ms --itl 20ms "
        "--rate 5/s --effort quick --jobs 1".split()
    )
    assert code == 2
    text = " ".join(capsys.readouterr().out.split())
    assert "infeasible (ttft): no number of workers keeps a TTFT of 20.0ms" in text
    assert "instead of 20.0ms" in text


def test_a_plan_does_not_depend_on_the_number_of_processes() -> None:
    one = make_plan(asked(1))
    assert one == make_plan(replace(asked(1), jobs=2))
    assert one.choices[0].simulated is not None


def test_progress_is_told_of_every_simulation() -> None:
    told = [0, 0]

    def tell(more: int, done: int) -> None:
        told[0] += more
        told[1] += done

    make_plan(asked(1), tell)
    assert told[0] == told[1] == 1 + 1 + 2, "one layout: a border for each seed, two looks"


def test_the_commands_are_where_the_command_line_looks() -> None:
    assert all(callable(importlib.import_module(name).main) for name in COMMANDS.values())


# -- one run ---------------------------------------------------------------------------------


def test_a_run_is_the_same_for_the_same_seed_and_shows_how_busy_pools_are() -> None:
    kinds, span = (kind(),), Span(1.0, 6.0, 0.3)
    layout = parse_layout("1p+1d", kinds)
    one, again, other = (
        run_load(layout, kinds, LOAD, WISHES, rate=10.0, span=span, seed=seed, watch=True)
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one.ttft != other.ttft
    assert one.missed["refused"] == 0
    points = one.busy_over_time["prefill"]
    assert len(points) > 20
    assert sum(busy for _, busy in points) / len(points) == pytest.approx(one.busy["prefill"])
    # 10 prompts of 400 tokens a second at 0.1 ms, and their steps of 8 ms each at most.
    assert 0.4 * one.came / 10 < one.busy["prefill"] < 0.5 * one.came / 10


@pytest.mark.parametrize(("code", "least", "most"), [
    ("1p+1d", 1.0, 1.0), ("2m", 0.0, 0.0), ("~2m", 0.2, 1.0), ("1p+1m", 0.2, 1.0),
])
def test_roles_are_as_strict_as_the_layout_says(code: str, least: float, most: float) -> None:
    kinds, load = (kind(),), Stated(Lengths(prompt=800, output=40))
    span = Span(1.0, 7.5, 0.3)
    seen = run_load(parse_layout(code, kinds), kinds, load, WISHES, rate=8.0, span=span, seed=1)
    assert least <= seen.handed <= most


def test_closed_forms_are_corrected_by_what_was_simulated() -> None:
    workload = LOAD.sample(WISHES.targets)
    found = []
    for code, factor in (("2m", 0.5), ("3m", 0.7), ("4m", 0.6), ("1p+1d", 1.1)):
        layout = parse_layout(code, (kind(),))
        candidate = Candidate(layout, model_of(layout, (kind(),), workload))
        rate = factor * closed_of(candidate, 0.95).rate
        found.append(Survivor(candidate, [Border(rate, ())]))
    factors = corrections(found, 0.95)
    assert factors == {"colocated": pytest.approx(0.6), "disaggregated": pytest.approx(1.1)}


def test_unlike_workers_share_one_model() -> None:
    """What a worker of one kind computes must be known to one of another by the same name."""
    kinds = (kind(1, name="small"), kind(2, speed=1.8, name="large"))
    load = Stated(Lengths(prompt=400, output=8, shared=0.5))
    span = Span(1.0, 8.0, 0.3)
    layout = parse_layout("1p@tp1+1d@tp2", kinds)
    seen = run_load(layout, kinds, load, WISHES, rate=5.0, span=span, seed=1)
    assert seen.served == 1.0
    assert seen.hit_rate > 0.3


# -- what is said beside ---------------------------------------------------------------------


def test_one_more_worker_of_the_pool_that_binds_helps_most() -> None:
    layout = parse_layout("1p+3d", (kind(),))
    changes = {change.what: change for change in sensitivity(world(), layout)}
    assert changes["one more prefill worker"].ratio > 1.5
    assert changes["one more decode worker"].ratio == pytest.approx(1.0, abs=0.05)
    assert changes["with half the prompt length"].ratio > 1.5
    assert changes["with twice the prompt length"].ratio < 0.7
    assert "3 prefill" in changes["with twice the prompt length"].best or "mixed" in changes[
        "with twice the prompt length"].best


def test_nothing_is_said_of_what_serves_nothing() -> None:
    hopeless = world(wishes=Wishes(ttft=0.001, itl=0.02))
    assert sensitivity(hopeless, parse_layout("1p+1d", (kind(),))) == []


def test_a_break_even_lies_where_the_winner_changes() -> None:
    here = same_devices(world(2), parse_layout("1p+1d", (kind(),)))
    for entry in break_even(here):
        if entry.at is None:
            assert entry.below == entry.above
            continue
        assert entry.below != entry.above
        assert entry.low < entry.at < entry.high

        def winner(value: float, entry: object = entry) -> str:
            changed = {
                "prompt length": lambda f: here.but(prompts=f),
                "answer length": lambda f: here.but(outputs=f),
                "ITL target": lambda f: here.but(wishes=replace(WISHES, itl=WISHES.itl * f)),
                "link speed": lambda f: here.but(links=f),
            }[entry.of](value / entry.here)  # type: ignore[attr-defined]
            rates = {a.layout.shape: a.rate for a in changed.best(("colocated", "disaggregated"))}
            wins = rates["disaggregated"] > 1.02 * rates["colocated"]
            return "disaggregated" if wins else "colocated"

        assert winner(0.9 * entry.at) == entry.below, entry
        assert winner(1.1 * entry.at) == entry.above, entry


def test_one_worker_has_nothing_to_break_even_with() -> None:
    assert break_even(world(1)) == []


@pytest.mark.parametrize(("wishes", "changes", "constraint"), [
    (Wishes(ttft=0.02, itl=0.02), {}, "ttft"),
    (Wishes(ttft=0.3, itl=0.005), {}, "itl"),
    (Wishes(ttft=0.3, itl=0.02), {"rate": 500.0}, "gpus"),
])
def test_the_constraint_that_fails_is_named(
    wishes: Wishes, changes: dict[str, float], constraint: str
) -> None:
    failing = world(2, wishes, **changes)
    answers = failing.best()
    most = max(answers, key=lambda answer: answer.rate)
    found = infeasible(failing, most if most.rate > 0 else None)
    assert found.constraint == constraint, found.text
    assert found.nearest, "there is always a way"


def test_what_is_nearest_is_feasible_and_not_much_more_than_needed() -> None:
    failing = world(3, Wishes(ttft=0.05, itl=0.02), rate=6.0)
    found = {entry.change: entry for entry in infeasible(failing, None).nearest}
    possible = found["ttft_ms"].possible
    assert possible is not None

    def best(ttft: float) -> float:
        return failing.but(wishes=replace(failing.wishes, ttft=ttft)).best()[0].rate

    assert best(possible / 1e3) >= 6.0
    assert best(0.95 * possible / 1e3) < 6.0


def test_more_gpus_are_named_where_they_are_enough() -> None:
    failing = world(2, rate=60.0)
    most = failing.best()[0]
    found = {e.change: e for e in infeasible(failing, Answer(most.layout, most.rate)).nearest}
    gpus = found["gpus"].possible
    assert gpus is not None
    assert gpus > 2
    assert world(int(gpus), rate=60.0).best()[0].rate >= 60.0
    assert found["rate_per_s"].possible == pytest.approx(most.rate, rel=1e-3)


def test_tasks_come_back_in_their_order() -> None:
    setting = Setting(kinds=(kind(),), load=LOAD, workload=LOAD.sample(WISHES.targets),
                      wishes=WISHES, effort=TINY)
    with processes(setting, 1) as run:
        assert run.map([lambda s, n=n: n for n in range(5)]) == [0, 1, 2, 3, 4]

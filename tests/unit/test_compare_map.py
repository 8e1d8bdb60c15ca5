"""Places of a map, what the planner says of them, and which side they are on."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baton.bench.compare import map as mapping
from baton.bench.compare.cells import TIE, Cell, cell_of, judge, places, side
from baton.bench.compare.chunked import attained
from baton.bench.compare.layouts import Layout
from baton.bench.compare.loads import Load
from baton.bench.compare.map import as_result, main
from baton.bench.compare.running import LayoutFailed
from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.results import Result, read
from baton.protocol.curves import StepCurve
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

MACHINE = load_machine(None)


def test_each_place_has_its_rate_and_targets_that_fit_its_prompt() -> None:
    found = list(places(MACHINE, 2, [128, 2048], [16, 256], [0.5, 1.0], None))
    assert len(found) == 8
    at = {(p.prompt, p.output, p.load): p for p in found}
    assert at[128, 16, 1.0].rate == pytest.approx(2 * at[128, 16, 0.5].rate)
    assert at[128, 16, 1.0].rate > at[2048, 16, 1.0].rate > at[2048, 256, 1.0].rate
    assert (at[2048, 16, 0.5].targets.ttft or 0) > 4 * (at[128, 16, 0.5].targets.ttft or 0)


def test_targets_may_be_one_for_all() -> None:
    wanted = Targets(ttft=1.0, itl=0.02)
    assert {p.targets for p in places(MACHINE, 2, [128, 512], [16], [0.5], wanted)} == {wanted}


def test_the_planner_sees_a_slow_link() -> None:
    """What is handed over late delays the second token, so the same place is worth less."""
    slow = replace(MACHINE, link=msgspec.structs.replace(MACHINE.link, latency=5.0))
    targets = Targets(ttft=1.0, itl=0.03)
    (near,) = places(MACHINE, 2, [1024], [32], [0.6], targets)
    (far,) = places(slow, 2, [1024], [32], [0.6], targets)
    assert far.planned < 0.5 * near.planned


def test_the_best_of_both_families_are_set_against_each_other() -> None:
    (place,) = places(MACHINE, 3, [128], [16], [0.5], None)
    found = cell_of(place, {"split 1+2": [1.0, 1.1], "split 2+1": [1.5, 3.0],
                            "colocated": [0.9, 0.9], "colocated 128": [1.0, 2.0]})
    assert (found.best, found.best_colocated) == ("split 2+1", "colocated 128")
    assert (found.measured, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))
    assert (found.goodput["split 2+1"], found.repetitions, found.won) == (2.25, 2, 1)
    assert cell_of(place, {"split 1+2": [0.0, 0.0], "colocated": [0.0, 0.0]}).measured == 1.0
    with pytest.raises(ValueError, match="colocated"):
        cell_of(place, {"split 1+2": [1.0]})


@pytest.mark.parametrize(("ours", "theirs", "won"), [
    ((1.5, 1.6, 1.55), (1.0, 1.1, 1.05), 1),
    ((1.0, 1.1, 1.05), (1.5, 1.6, 1.55), -1),
    ((1.0, 1.9, 1.4), (1.4, 1.0, 1.1), 0),
    ((1.02, 1.02, 1.02), (1.0, 1.0, 1.0), 0),  # certain, and no more than a tie
    ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
    ((1.0, 1.1, 1.0), (0.0, 0.0, 0.0), 1),
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0),
    ((2.0,), (1.0,), 0),
])
def test_a_place_is_won_where_the_interval_says_so(
    ours: tuple[float, ...], theirs: tuple[float, ...], won: int
) -> None:
    (place,) = places(MACHINE, 2, [128], [16], [0.5], None)
    found = cell_of(place, {"split 1+1": ours, "colocated": theirs})
    assert found.won == won
    assert found.measured <= 9.0


def cell(planned: float, measured: float, won: int | None) -> Cell:
    return Cell(prompt=1, output=1, load=1, rate=1, ttft=1, itl=1, planned=planned,
                measured=measured, won=won, best="s", best_colocated="c", goodput={})


def test_only_decided_places_tell_of_the_planner_and_its_ties_do_not_agree() -> None:
    assert (side(1 + TIE / 2), side(1 - TIE / 2), side(1.2), side(0.8)) == (0, 0, 1, -1)
    cells = [cell(1.3, 1.2, 1), cell(1.3, 0.9, -1), cell(1.0, 0.5, -1), cell(0.5, 0.6, -1),
             cell(0.5, 1.6, 0), cell(1.0, 1.0, 0), cell(1.3, 1.2, None)]
    judged = judge(cells)
    assert (judged.places, judged.decided) == (7, 4)
    assert (judged.same, judged.contradicted, judged.planner_tied) == (2, 1, 1)
    assert judged.contradictions == (cells[1],)
    assert judged.share == 0.5
    assert judge(cells[4:]).share == 0.0


def results(*cells: Cell, failed: tuple[str, ...] = ()) -> Result:
    options = argparse.Namespace(repeat=3)
    return as_result(options, MACHINE, cells, failed)


def test_a_result_names_contradictions_and_needs_decided_places() -> None:
    made = results(cell(1.3, 0.9, -1), cell(0.5, 0.6, -1), failed=("512/8 at 1/s: no start",))
    assert made.metrics["verdict"] == [
        "NOT ALL WAS MEASURED: 512/8 at 1/s: no start.",
        "Of 2 places 2 are decided: 1 as planned, 1 the other way, 0 where the planner sees a tie.",
        "Against the planner: 1/1 at 1.00/s: 0.90, planner 1.30.",
    ]
    assert [row.holds for row in made.rows] == [False, False]
    assert [row.holds for row in results(cell(0.5, 0.6, -1)).rows] == [True]
    (row,) = results(cell(1.0, 1.0, 0)).rows
    assert (row.holds, row.seen) == (False, "none is decided: more --repeat, --seconds")


def test_a_map_needs_repetitions() -> None:
    with pytest.raises(ConfigError, match="--repeat 2"):
        main(["--repeat", "1"])


def test_places_that_cannot_be_measured_leave_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On real workers, which here do not start for one of the lengths."""
    asked = []

    def run(start: object, serve: object, layout: Layout, load: Load, **rest: Any) -> Any:
        asked.append((load.name, layout.name, rest["repetition"], rest["seed"]))
        if load.name == "256/8":
            raise LayoutFailed(layout.name, "it did not start:\nno memory")
        factor = 1.0 if layout.family == "split" else 2.0
        return argparse.Namespace(goodput=factor * (1 + rest["repetition"]))

    monkeypatch.setattr(mapping, "measure", run)
    monkeypatch.setattr(mapping, "load_machine", lambda path: MACHINE)
    file = tmp_path / "map.jsonl"
    code = main(["--real", "--machine", "x", "--paced", "x", "--prompts", "128", "256", "512",
                 "--outputs", "8", "--loads", "0.9", "--chunks", "128", "--repeat", "2",
                 "--json", str(file)])
    assert code == 1
    (result,) = read(file)
    assert [(c["prompt"], c["won"]) for c in result.series["cells"]] == [(128, -1), (512, -1)]
    assert "256/8" in result.metrics["verdict"][0]
    assert "no memory" in result.metrics["verdict"][0]
    first = [(name, repetition) for load, name, repetition, _ in asked if load == "128/8"]
    assert first[:3] == [(name, 0) for name, _ in reversed(first[3:])], "they turn round"
    assert len({seed for _, _, repetition, seed in asked if repetition == 1}) == 1


def test_where_nothing_starts_the_rest_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(start: object, serve: object, layout: Layout, load: Load, **rest: Any) -> Any:
        asked.append(load.name)
        raise LayoutFailed(layout.name, "no memory")

    monkeypatch.setattr(mapping, "measure", run)
    monkeypatch.setattr(mapping, "load_machine", lambda path: MACHINE)
    with pytest.raises(ConfigError, match=r"no place could be measured; 64/8 .* no memory"):
        main(["--real", "--machine", "x", "--paced", "x", "--outputs", "8", "16",
              "--prompts", "64", "128", "256", "--loads", "0.9"])
    assert len(asked) == 3


@pytest.mark.timeout(120)
def test_a_simulated_map_from_its_options_to_its_result(tmp_path: Path) -> None:
    """Short answers: who decodes is idle most of the time, and a split loses."""
    file = tmp_path / "map.jsonl"
    code = main(["--prompts", "512", "--outputs", "8", "--loads", "0.9", "--seconds", "8",
                 "--warm-up", "1s", "--chunks", "128", "--json", str(file)])
    assert code == 0
    (result,) = read(file)
    (found,) = result.series["cells"]
    assert set(found["goodput"]) == {"split 1+1", "colocated 128", "colocated"}
    assert found["measured"] < 1
    assert found["planned"] < 1
    assert math.isfinite(found["rate"])
    assert found["low"] < found["measured"] < found["high"] < 1
    assert (found["repetitions"], found["won"]) == (3, -1)
    counts = {name: value for name, value in result.metrics.items() if name != "verdict"}
    assert counts == {"places": 1, "decided": 1, "same": 1, "contradicted": 0, "planner_tied": 0}


# -- chunks of a fixed size, in closed form --------------------------------------------------

CURVE = StepCurve(base=0.01, chunk=0.001, token=1e-4, pair=0.0, decode=1e-3, context=0.0,
                  spread=0.0, steps=100)


def share(rate: float, chunk: int = 100, prompt: int = 1000, output: int = 50, **targets: float
          ) -> float:
    return attained(CURVE, 2, rate, prompt, output, chunk, Targets(**targets))


def test_alone_a_prompt_takes_its_chunks_and_a_token_its_step() -> None:
    """Ten steps of 10 + 1 + 10 ms, and decodes of 11 ms."""
    assert share(1e-6, ttft=0.211) == pytest.approx(1.0, abs=1e-3)
    assert share(1e-6, ttft=0.209) == 0.0
    assert share(1e-6, ttft=1.0, itl=0.0102) == pytest.approx(1.0, abs=1e-2)
    assert share(1e-6, ttft=1.0, itl=0.0099) < 0.01


def test_larger_chunks_are_better_for_first_tokens_only_by_their_overhead() -> None:
    """Fewer steps for the same prompt."""
    assert share(2.0, chunk=500, ttft=0.2) > share(2.0, chunk=100, ttft=0.2)


def test_more_requests_attain_less_up_to_nothing() -> None:
    shares = [share(rate, ttft=0.6, itl=0.02) for rate in (0.5, 2.0, 4.0, 6.0, 8.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9
    # A request costs 50 ms of decodes and 110 ms of chunks; twelve and a half are too many.
    assert share(12.6, ttft=100.0) == 0.0


def test_prompts_stretch_the_steps_of_others() -> None:
    """At 4 a second requests take L (O d + n c) = 0.32 of the time of each of two workers, so of
    what is left for the bases of steps, a step takes 10 / 0.68 = 14.7 ms on average."""
    mean = 0.01 / (1 - 2 * (50 * 1e-3 + 10 * 0.011))
    assert share(4.0, ttft=100.0, itl=mean) == pytest.approx(0.5, abs=0.02)


def test_ctrl_c_keeps_the_places_that_were_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(start: object, serve: object, layout: Layout, load: Load, **rest: Any) -> Any:
        if load.name == "512/8":
            raise KeyboardInterrupt
        return argparse.Namespace(goodput=2.0 if layout.family == "split" else 1.0)

    monkeypatch.setattr(mapping, "measure", run)
    monkeypatch.setattr(mapping, "load_machine", lambda path: MACHINE)
    file = tmp_path / "map.jsonl"
    arguments = ["--real", "--machine", "x", "--paced", "x", "--outputs", "8", "--loads", "0.9",
                 "--chunks", "128", "--repeat", "2", "--json", str(file), "--prompts"]
    assert main([*arguments, "128", "256", "512", "1024"]) == 130
    (result,) = read(file)
    assert [(c["prompt"], c["won"]) for c in result.series["cells"]] == [(128, 1), (256, 1)]
    assert result.rows[0].seen == "ENDED EARLY, Ctrl-C after 2 of 4 places"
    with pytest.raises(KeyboardInterrupt):
        main([*arguments, "512"])
    assert len(read(file)) == 1

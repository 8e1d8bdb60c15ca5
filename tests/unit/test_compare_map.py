"""Places of a map, what the planner says of them, and which side they are on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from baton.bench.compare.cells import TIE, Cell, agreement, cell_of, places, side
from baton.bench.compare.chunked import attained
from baton.bench.compare.map import main
from baton.bench.planning.hardware.kinds import load_machine
from baton.bench.results import read
from baton.protocol.curves import StepCurve
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
    cell = cell_of(place, {"split 1+2": 1.0, "split 2+1": 1.5, "colocated": 0.9,
                           "colocated 128": 1.0})
    assert (cell.best, cell.best_colocated, cell.measured) == ("split 2+1", "colocated 128", 1.5)
    assert cell_of(place, {"split 1+2": 0.0, "colocated": 0.0}).measured == 1.0
    assert cell_of(place, {"split 1+2": 1.0, "colocated": 0.0}).measured == 9.0
    with pytest.raises(ValueError, match="colocated"):
        cell_of(place, {"split 1+2": 1.0})


def cell(planned: float, measured: float) -> Cell:
    return Cell(prompt=1, output=1, load=1, rate=1, ttft=1, itl=1, planned=planned,
                measured=measured, best="s", best_colocated="c", goodput={})


def test_a_tie_contradicts_nobody() -> None:
    assert (side(1 + TIE / 2), side(1 - TIE / 2), side(1.2), side(0.8)) == (0, 0, 1, -1)
    cells = [cell(1.3, 1.2), cell(1.3, 0.9), cell(1.0, 0.5), cell(0.5, 0.6)]
    assert agreement(cells) == (3, 4)


@pytest.mark.timeout(120)
def test_a_simulated_map_from_its_options_to_its_result(tmp_path: Path) -> None:
    """Short answers: who decodes is idle most of the time, and a split loses."""
    file = tmp_path / "map.jsonl"
    code = main(["--prompts", "512", "--outputs", "8", "--loads", "0.9", "--seconds", "5",
                 "--warm-up", "1s", "--chunks", "128", "--json", str(file)])
    assert code == 0
    (result,) = read(file)
    (found,) = result.series["cells"]
    assert set(found["goodput"]) == {"split 1+1", "colocated 128", "colocated"}
    assert found["measured"] < 1
    assert found["planned"] < 1
    assert math.isfinite(found["rate"])
    assert result.metrics == {"places": 1, "on_the_same_side": 1}


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

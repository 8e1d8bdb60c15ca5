"""A plan beside what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from baton.bench.compare.measure import Point, Run
from baton.bench.compare.options import choose, parse
from baton.bench.compare.phases import Phases
from baton.bench.compare.planned import layout_of, layouts_of, pairs, rate_of, rows
from baton.bench.compare.search import Capacity
from baton.bench.compare.verdict import standings
from baton.bench.planning.plan import Plan, encode
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

TARGETS = Targets(ttft=0.4, itl=0.05)


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def choice(layout: str, capacity: float, goodput: float | None) -> dict[str, Any]:
    times = {"p50": estimate(100.0), "p90": None, "p95": None, "p99": estimate(300.0)}
    simulated = None if goodput is None else {
        "capacity_per_s": estimate(capacity), "capacities_per_s": [capacity], "rate_per_s": 2.0,
        "seeds": 1, "requests": 9, "attainment": estimate(0.95),
        "goodput_per_s": estimate(goodput), "served": estimate(1.0),
        "ttft_ms": times, "itl_ms": times, "gap_ms": times, "e2e_ms": times,
        "hit_rate": estimate(0.0), "handed": estimate(0.5),
    }
    return {
        "name": layout, "layout": layout, "shape": "x", "pools": [], "gpus": 2,
        "price_per_hour": None, "feasible": True, "capacity_per_s": capacity,
        "goodput_per_s": goodput or 0.0, "goodput_per_gpu": 1.0, "goodput_per_cost": None,
        "divisor": 2.0,
        "binds": "all", "traffic": None, "simulated": simulated,
        "forecast": {"capacity_per_s": capacity, "bound_per_s": 3.0, "attainment": 1.0,
                     "ttft_ms": {}, "itl_ms": {}, "batch": 1.0},
    }


def plan(*choices: dict[str, Any], rate: float | None = 2.0) -> Plan:
    return msgspec.convert({
        "question": {"workload": "chat", "rate_per_s": rate, "ttft_ms": 400.0, "itl_ms": 50.0,
                     "e2e_ms": None, "attainment": 0.9, "gpus": 2, "price_per_hour": None,
                     "ranked_by": "gpu", "effort": "quick", "seed": 1},
        "load": {"prompt_tokens": 1, "cached_tokens": 0, "output_tokens": 1, "burstiness": 1,
                 "sample": 1},
        "kinds": [], "choices": choices, "verdict": "x", "sensitivity": [], "break_even": [],
        "infeasible": None,
    }, Plan)


PLAN = plan(choice("1p+1d", 2.2, 1.9), choice("2m", 1.8, 1.5), choice("~1p+1d", 2.0, None))


def runs(layout: str, goodputs: tuple[float, ...], rate: float = 2.0) -> list[Run]:
    figures = {"requests": 99.0, "ttft_p50_ms": 110.0, "ttft_p99_ms": None,
               "tpot_p50_ms": 90.0, "itl_p99_ms": 330.0}
    return [
        Run(point=Point(
            layout=layout, family="split", rate=rate, repetition=n, seed=1,
            figures={**figures, "goodput_per_s": goodput, "attainment": goodput / rate}, ends={},
            phases={},
        ), phases=Phases({}, 0, 0, 0), seen=[])
        for n, goodput in enumerate(goodputs)
    ]


def test_layouts_of_a_plan_are_ours() -> None:
    names = [layout.name for layout in layouts_of(PLAN, TARGETS)]
    assert names == ["split 1+1", "colocated", "routed 1+1"]
    assert layout_of("1p+1m", TARGETS).options == (
        "--prefill", "1", "--mixed", "1", "--decode", "0", "--sizing", "off", "--strict-roles",
        "--ttft", "400ms", "--itl", "50ms",
    )
    assert "--strict-roles" not in layout_of("~2p+2d", TARGETS).options
    assert layout_of("2p@tp1+1d@tp1", TARGETS).name == "split 2+1"
    assert layout_of("2m@h100", TARGETS).name == "colocated"


@pytest.mark.parametrize(("code", "said"), [
    ("2x", "form"), ("2p@tp1+1d@tp2", "several devices"), ("2m@tp4", "several devices"),
    ("1p@h100+1d@l40s", "several kinds of hardware"), ("1p@h100+1d@tp2", "several devices"),
])
def test_layouts_that_cannot_be_started_are_refused(code: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        layout_of(code, TARGETS)


def test_workers_of_two_devices_are_no_workers_of_one(tmp_path: Path) -> None:
    """Where all have two the layout's code does not say so; and a layout by name does not help."""
    wide = {**choice("1p+1d", 2.2, 1.9), "pools": [{
        "role": "prefill", "workers": 1, "devices": 2, "kind": "h100", "batch_limit": 9,
        "chunk": 99, "busy": None,
    }]}
    file = tmp_path / "plan.json"
    file.write_bytes(encode(plan(choice("2m", 1.8, 1.5), wide)))
    for more in ([], ["--layout", "colocated"]):
        options = parse(["--load", "chat", "--plan", str(file), "--paced", "x.json", *more], None)
        with pytest.raises(ConfigError, match=r"1p\+1d has workers of several devices.*--tp 1"):
            choose(options)


def test_predicted_and_measured_are_pairs_at_the_same_rate() -> None:
    found = standings([*runs("split 1+1", (1.8, 1.9, 2.0)), *runs("split 1+1", (9.0,), rate=3.0)])
    made = {pair["what"]: (pair["predicted"], round(pair["measured"], 6))
            for pair in pairs(PLAN, found, {"split 1+1": [Capacity(2.0), Capacity(2.2)]})}
    assert made == {
        "capacity of split 1+1": (2.2, 2.1),
        "goodput of split 1+1": (1.9, 1.9),
        "TTFT P50 of split 1+1": (100.0, 110.0),
        "mean ITL P50 of split 1+1": (100.0, 90.0),
        "ITL P99 of split 1+1": (300.0, 330.0),
    }


def test_a_plan_was_right_when_its_choice_is_as_good_as_said_and_not_beaten() -> None:
    best = runs("split 1+1", (1.9, 1.88, 1.92))
    right = rows(PLAN, standings([*best, *runs("colocated", (1.5, 1.52, 1.49))]), {})
    assert [row.holds for row in right] == [True, True]
    assert right[0].seen == "1.000"
    beaten = rows(PLAN, standings([*best, *runs("routed 1+1", (2.1, 2.07, 2.13))]), {})
    assert [row.holds for row in beaten] == [True, False]
    assert beaten[1].seen == "behind routed 1+1"
    far = rows(PLAN, standings(runs("split 1+1", (1.5, 1.52, 1.49))), {})
    assert [row.holds for row in far] == [False, True]


def test_who_is_tied_has_not_beaten_it() -> None:
    noisy = [*runs("split 1+1", (1.7, 2.0, 1.9)), *runs("colocated", (2.0, 1.8, 1.95))]
    assert rows(PLAN, standings(noisy), {})[-1].holds


def test_a_plan_replaces_options_of_the_same_meaning(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(encode(PLAN))
    options = parse(["--load", "chat", "--plan", str(file), "--paced", "x.json", "--ttft", "9s"],
                    None)
    chosen = choose(options)
    assert [layout.name for layout in chosen.layouts] == ["split 1+1", "colocated", "routed 1+1"]
    assert (options.rates, options.no_tuning) == ([2.0], True)
    assert chosen.load.targets == Targets(ttft=0.4, itl=0.05)
    assert chosen.load.e2e is None


def test_an_end_to_end_target_of_a_plan_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    asked = msgspec.structs.replace(PLAN.question, e2e_ms=2500.0)
    file.write_bytes(encode(msgspec.structs.replace(PLAN, question=asked)))
    options = parse(["--load", "chat", "--plan", str(file), "--paced", "x.json"], None)
    assert choose(options).load.e2e == 2.5


def test_a_plan_for_as_much_as_can_be_is_measured_where_it_was_simulated() -> None:
    assert rate_of(plan(choice("2m", 1.8, 1.5), rate=None)) == 2.0
    assert rate_of(plan(choice("2m", 1.8, None), rate=None)) == 1.8

"""A plan beside what was measured: its figures for each layout, and whether its choice was right.
Pure.

    plan's layout    here
    2m               colocated
    1p+1d            split 1+1
    ~1p+1d           routed 1+1: the router decides for each request, roles stay
    1p+1m            1p+1m

A worker of ours has one device. Layouts whose workers have several, or are of several kinds, cannot
be started, and are refused: workers of another size would say nothing of the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from baton.bench.compare import layouts as making
from baton.bench.compare.layouts import Layout
from baton.bench.compare.search import Capacity
from baton.bench.compare.statistics import mean_of
from baton.bench.compare.verdict import LOSES, Standing, outcome
from baton.bench.planning.plan import Choice, Plan
from baton.bench.results import Row
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets

NEAR = 0.1
"""Of what was planned: so far off may be what is measured."""
_CODE = re.compile(r"(\d+)([pmd])(?:@(\S+))?")
_ONE_DEVICE = "tp1"
_FIGURES = {
    "ttft_p50_ms": "TTFT P50",
    "ttft_p99_ms": "TTFT P99",
    "tpot_p50_ms": "mean ITL P50",
    "itl_p99_ms": "ITL P99",
}


def layout_of(code: str, targets: Targets) -> Layout:
    """Raises ConfigError for what is no layout, or cannot be started."""
    found = [_CODE.fullmatch(part) for part in code.removeprefix("~").split("+")]
    if not all(found):
        raise ConfigError(f"the plan's layout {code!r} is of a form that is not known here")
    kinds = {each[3] for each in found if each}
    if any(re.fullmatch(r"tp\d+", kind or "") for kind in kinds - {_ONE_DEVICE}):
        raise _several(code)
    if len(kinds) > 1:
        raise ConfigError(f"the plan's layout {code} has workers of several kinds of hardware, and "
                          "here all are alike: plan with one --hardware")
    count = {each[2]: int(each[1]) for each in found if each}
    prefill, mixed, decode = (count.get(letter, 0) for letter in "pmd")
    if not prefill and not decode:
        return making.colocated(mixed, None, targets)
    if not mixed and not code.startswith("~"):
        return making.split(prefill, decode, targets)
    options = [
        word for role, number in (("prefill", prefill), ("mixed", mixed), ("decode", decode))
        if number or role != "mixed" for word in (f"--{role}", str(number))
    ]
    strict = () if code.startswith("~") else ("--strict-roles",)
    return Layout(
        f"routed {prefill}+{decode}" if code.startswith("~") else code,
        making.SPLIT,
        (*options, "--sizing", "off", *strict, *making.told(targets)),
    )


def layouts_of(plan: Plan, targets: Targets) -> list[Layout]:
    """Of all choices, the best first. Raises ConfigError where one cannot be started."""
    found: dict[str, Layout] = {}
    for choice in plan.choices:
        # Of workers that are all of one size the code does not tell it.
        if any(pool.devices > 1 for pool in choice.pools):
            raise _several(choice.layout)
        layout = layout_of(choice.layout, targets)
        found.setdefault(layout.name, layout)
    return list(found.values())


def _several(code: str) -> ConfigError:
    return ConfigError(
        f"the plan's layout {code} has workers of several devices (tensor parallelism), which "
        "cannot be started here: plan with --tp 1"
    )


def rate_of(plan: Plan) -> float:
    """That the plan is for, or what its best choice was simulated at. Raises ConfigError."""
    best = plan.choices[0]
    rate = plan.question.rate_per_s or (best.simulated and best.simulated.rate_per_s)
    return rate or best.capacity_per_s


def pairs(
    plan: Plan, found: Sequence[Standing], capacities: Mapping[str, Sequence[Capacity]]
) -> list[dict[str, Any]]:
    """Predicted and measured, for a result's series of that name."""
    return [
        {"what": f"{figure} of {name}", "group": figure, "layout": name, "rate": rate,
         "predicted": predicted, "measured": measured}
        for name, figure, rate, predicted, measured in _pairs(plan, found, capacities)
    ]


def rows(
    plan: Plan, found: Sequence[Standing], capacities: Mapping[str, Sequence[Capacity]]
) -> list[Row]:
    """Its best choice: as much goodput as planned, and no other layout beats it."""
    name = _name(plan.choices[0])
    made = [
        Row(f"{figure} of {name}, measured over planned",
            f"{1 - NEAR:g} to {1 + NEAR:g}", f"{measured / predicted:.3f}",
            abs(measured / predicted - 1) <= NEAR)
        for layout, figure, _, predicted, measured in _pairs(plan, found, capacities)
        if layout == name and figure in ("goodput", "capacity") and predicted
    ]
    for rate in sorted({each.rate for each in found}):
        here = [each for each in found if each.rate == rate]
        ours = next((each for each in here if each.layout == name), None)
        if ours is None:
            continue
        better = [
            other.layout for other in here
            if other is not ours and outcome(ours, other)[0] == LOSES
        ]
        made.append(Row(f"{name}, the plan's choice, at {rate:g} requests/s",
                        "best, or tied with it", f"behind {', '.join(better)}" if better
                        else "best, or tied with it", not better))
    return made


_Pair = tuple[str, str, float, float, float]


def _pairs(
    plan: Plan, found: Sequence[Standing], capacities: Mapping[str, Sequence[Capacity]]
) -> Iterator[_Pair]:
    for choice in plan.choices:
        name = _name(choice)
        if name in capacities and choice.capacity_per_s:
            held = mean_of([each.holds for each in capacities[name]]).mid
            yield name, "capacity", choice.capacity_per_s, choice.capacity_per_s, held
        if choice.simulated is None:
            continue
        rate = choice.simulated.rate_per_s
        for each in found:
            if each.layout != name or abs(each.rate / rate - 1) > 0.01:
                continue
            # Of so many as come on average: how many came just then is chance, not the plan's.
            yield (name, "goodput", rate, choice.simulated.attainment.value * rate,
                   each.mid("attainment") * rate)
            told = _told(choice)
            for figure, title in _FIGURES.items():
                measured = each.mid(figure)
                if told[figure] is not None and measured == measured:
                    yield name, title, rate, told[figure] or 0.0, measured


def _told(choice: Choice) -> dict[str, float | None]:
    simulated = choice.simulated
    assert simulated is not None
    ttft, itl, gap = simulated.ttft_ms, simulated.itl_ms, simulated.gap_ms
    return {
        "ttft_p50_ms": ttft.p50.value if ttft.p50 else None,
        "ttft_p99_ms": ttft.p99.value if ttft.p99 else None,
        "tpot_p50_ms": itl.p50.value if itl.p50 else None,
        "itl_p99_ms": gap.p99.value if gap.p99 else None,
    }


def _name(choice: Choice) -> str:
    return layout_of(choice.layout, Targets()).name

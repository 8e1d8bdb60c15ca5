"""The lines of a plan's plots, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from baton.bench.planning.closed import World
from baton.bench.planning.estimates import estimate
from baton.bench.planning.layout import Layout
from baton.bench.planning.limits import Limits
from baton.bench.planning.plan import Line
from baton.bench.planning.survivors import Survivor

_TARGETS = (0.5, 0.65, 0.8, 1.0, 1.3, 1.7, 2.2, 3.0)
"""Times the ITL target, of the frontier."""
_RATES = 16


def plots_of(
    world: World, survivors: Sequence[Survivor], limits: Limits
) -> dict[str, list[Line]]:
    """`world`: of as many devices as the best has; `limits`: the plan's. `frontier`: goodput per
    GPU or per cost, as the plan ranks by, over the ITL target; `ttft`, `itl`: milliseconds that
    the wanted share keeps, over requests per second; `busy`: shares over seconds."""
    firsts: list[Survivor] = []
    for survivor in survivors:
        shape = survivor.candidate.layout.shape
        if shape not in [first.candidate.layout.shape for first in firsts]:
            firsts.append(survivor)
    return {
        "frontier": _frontier(world, firsts, limits),
        "ttft": [line for s in firsts for line in _over_rate(world, s, "ttft")],
        "itl": [line for s in firsts for line in _over_rate(world, s, "itl")],
        "busy": [line for s in firsts for line in _busy(world, s)],
    }


def _frontier(world: World, survivors: Sequence[Survivor], limits: Limits) -> list[Line]:
    def each(rate: float, layout: Layout) -> float:
        return rate / limits.divisor(layout, world.kinds)

    points: dict[str, list[tuple[float, float]]] = {}
    for factor in _TARGETS:
        wishes = replace(world.wishes, itl=world.wishes.itl * factor)
        for answer in world.but(wishes=wishes).best():
            points.setdefault(answer.layout.shape, []).append(
                (1e3 * wishes.itl, each(answer.rate, answer.layout))
            )
    lines = [
        Line(name=f"{shape}, closed form", shape=shape,
             x=[_short(x) for x, _ in found], y=[_short(y) for _, y in found])
        for shape, found in points.items()
    ]
    for survivor in survivors:
        layout = survivor.candidate.layout
        found = estimate(each(rate, layout) for rate in survivor.rates)
        lines.append(Line(
            name=f"{layout.name(world.kinds)}, simulated", shape=layout.shape,
            x=[_short(1e3 * world.wishes.itl)], y=[found.value],
            low=[max(0.0, found.low)], high=[found.high],
        ))
    return lines


def _over_rate(world: World, survivor: Survivor, what: str) -> list[Line]:
    layout = survivor.candidate.layout
    name, share = layout.name(world.kinds), world.wishes.attainment
    points = sorted(
        (point.rate, 1e3 * seconds)
        for point in survivor.points
        if (seconds := getattr(point, what)) is not None
    )
    lines = [Line(
        name=f"{name}, simulated", shape=layout.shape,
        x=[_short(x) for x, _ in points], y=[_short(y) for _, y in points],
    )]
    closed = []
    most = 1.15 * max([x for x, _ in points], default=survivor.candidate.model.bound)
    for number in range(1, _RATES + 1):
        rate = most * number / _RATES
        if rate >= survivor.candidate.model.bound:
            break
        tails = survivor.candidate.model.forecast(rate).tails
        value = 1e3 * (tails.ttft(share) if what == "ttft" else tails.itl(share))
        if value < 1e6:
            closed.append((rate, value))
    lines.append(Line(
        name=f"{name}, closed form", shape=layout.shape,
        x=[_short(x) for x, _ in closed], y=[_short(y) for _, y in closed],
    ))
    return lines


def _busy(world: World, survivor: Survivor) -> list[Line]:
    layout = survivor.candidate.layout
    watched = next((seen for seen in survivor.seen if len(seen.busy_over_time) and any(
        len(points) > 1 for points in seen.busy_over_time.values())), None)
    if watched is None:
        return []
    return [
        Line(
            name=f"{layout.name(world.kinds)}: {role}", shape=layout.shape,
            x=[_short(x) for x, _ in points], y=[_short(y) for _, y in points],
        )
        for role, points in watched.busy_over_time.items()
    ]


def _short(value: float) -> float:
    return float(f"{value:.4g}")

"""Where disaggregated and colocated workers are worth the same: along the lengths of prompts and
answers, the target between tokens, and the speed of the links."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from baton.bench.planning.closed import Answer, World
from baton.bench.planning.figures import figure
from baton.bench.planning.plan import COLOCATED, DISAGGREGATED, BreakEven

RANGE = 8.0
"""Times as much, or as little, as here."""
_GRID = 7
_STEPS = 7
_LIKE = 0.02
"""Relative gain that is none."""


@dataclass(frozen=True)
class Axis:
    """What may be otherwise. `world(factor)` is the one in which it is so many times as much."""

    of: str
    unit: str
    here: float
    world: Callable[[float], World]


def axes(world: World) -> list[Axis]:
    workload, wishes = world.workload, world.wishes
    count = max(1, len(workload.items))
    prompt = sum(item.prompt for item in workload.items) / count
    output = sum(item.output for item in workload.items) / count
    link = max(1 / kind.machine.link.byte if kind.machine.link.byte else math.inf
               for kind in world.kinds)
    found = [
        Axis("prompt length", "tokens", prompt, lambda f: world.but(prompts=f)),
        Axis("answer length", "tokens", output, lambda f: world.but(outputs=f)),
        Axis("ITL target", "ms", 1e3 * wishes.itl,
             lambda f: world.but(wishes=replace(wishes, itl=wishes.itl * f))),
    ]
    if math.isfinite(link):
        found.append(Axis("link speed", "GB/s", link / 1e9, lambda f: world.but(links=f)))
    return found


def break_even(world: World, along: Sequence[Axis] | None = None) -> list[BreakEven]:
    """At the same number of devices for both. Empty where there is only one worker."""
    if not {COLOCATED, DISAGGREGATED} <= {a.layout.shape for a in _both(world)}:
        return []
    return [_along(axis) for axis in (axes(world) if along is None else along)]


def crossing(
    gain: Callable[[float], float], low: float, high: float, near: float = 1.0
) -> tuple[float | None, float, float]:
    """Where `gain` changes its sign between `low` and `high`, the place nearest to `near` on a
    logarithmic scale; and the gains at both ends of that stretch, or of all where there is none."""
    count = _GRID
    grid = [low * (high / low) ** (n / (count - 1)) for n in range(count)]
    gains = [gain(value) for value in grid]
    stretches = [
        n for n in range(count - 1) if (gains[n] > 0) != (gains[n + 1] > 0)
    ]
    if not stretches:
        return None, gains[0], gains[-1]
    place = min(stretches, key=lambda n: abs(math.log(math.sqrt(grid[n] * grid[n + 1]) / near)))
    below, above = grid[place], grid[place + 1]
    for _ in range(_STEPS):
        middle = math.sqrt(below * above)
        if (gain(middle) > 0) == (gains[place] > 0):
            below = middle
        else:
            above = middle
    return math.sqrt(below * above), gains[place], gains[place + 1]


# -- inside ----------------------------------------------------------------------------------


def _both(world: World) -> list[Answer]:
    return world.best((COLOCATED, DISAGGREGATED))


def _along(axis: Axis) -> BreakEven:
    def gain(factor: float) -> float:
        """Of disaggregated workers over colocated ones."""
        world = axis.world(factor)
        rates = {answer.layout.shape: world.worth(answer) for answer in _both(world)}
        one, other = rates.get(DISAGGREGATED, 0.0), rates.get(COLOCATED, 0.0)
        if one <= 0 and other <= 0:
            return -_LIKE  # nobody serves it: no reason to take the trouble
        return math.inf if other <= 0 else one / other - 1 - _LIKE

    at, below, above = crossing(gain, 1 / RANGE, RANGE)
    shapes = [DISAGGREGATED if side > 0 else COLOCATED for side in (below, above)]
    place = None if at is None else float(f"{at * axis.here:.3g}")
    return BreakEven(
        of=axis.of,
        unit=axis.unit,
        here=float(f"{axis.here:.4g}"),
        at=place,
        low=float(f"{axis.here / RANGE:.3g}"),
        high=float(f"{axis.here * RANGE:.3g}"),
        below=shapes[0],
        above=shapes[1],
        text=_text(axis, place, shapes),
    )


def _text(axis: Axis, at: float | None, shapes: Sequence[str]) -> str:
    here = f"here {figure(axis.here)} {axis.unit}"
    if at is None:
        return (
            f"{axis.of}: {shapes[0]} wins from {figure(axis.here / RANGE)} to "
            f"{figure(axis.here * RANGE)} {axis.unit} ({here})"
        )
    return (
        f"{axis.of}: below {figure(at)} {axis.unit} {shapes[0]} wins, above it {shapes[1]} ({here})"
    )

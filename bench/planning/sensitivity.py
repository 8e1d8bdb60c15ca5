"""What would change if something were otherwise: one worker more, other lengths, tighter targets.
By closed forms, corrected by what simulations of this load showed."""

from __future__ import annotations

from dataclasses import replace

from baton.bench.planning.closed import Answer, World
from baton.bench.planning.figures import figure
from baton.bench.planning.layout import Layout, Role
from baton.bench.planning.limits import Limits
from baton.bench.planning.plan import COLOCATED, Change
from baton.protocol.units import format_duration

_NOTABLE = 0.03
"""Relative gain of another shape that is worth a change of mind."""


def sensitivity(world: World, layout: Layout) -> list[Change]:
    """For the recommended `layout`. Nothing where it serves nothing."""
    here = world.capacity(layout).rate
    if here <= 0:
        return []
    return [*_one_more(world, layout, here), *_otherwise(world, layout, here)]


def _one_more(world: World, layout: Layout, here: float) -> list[Change]:
    changes = []
    for pool in layout.pools:
        more = Layout(
            tuple(
                Role(p.role, p.workers + (p.role == pool.role), p.kind) for p in layout.pools
            ),
            layout.strict,
        )
        found = world.capacity(more)
        what = f"one more {pool.role} worker"
        changes.append(_change(world, what, found, None, layout, here))
    return changes


def _otherwise(world: World, layout: Layout, here: float) -> list[Change]:
    wishes = world.wishes
    cached = any(item.cached for item in world.workload.items)
    worlds = {
        "half the prompt length": world.but(prompts=0.5),
        "twice the prompt length": world.but(prompts=2.0),
        "half the answer length": world.but(outputs=0.5),
        "twice the answer length": world.but(outputs=2.0),
        **({"no shared prefixes": world.but(cached=False)} if cached else {}),
        "arrivals in bursts (four times the variance)": world.but(burstiness=4.0),
        f"an ITL target of {format_duration(0.75 * wishes.itl)}":
            world.but(wishes=replace(wishes, itl=0.75 * wishes.itl)),
        f"a TTFT target of {format_duration(0.5 * wishes.ttft)}":
            world.but(wishes=replace(wishes, ttft=0.5 * wishes.ttft)),
        "links of a quarter of the speed": world.but(links=0.25),
    }
    changes = []
    for what, other in worlds.items():
        all_of_them = same_devices(other, layout)
        best = all_of_them.best()
        changes.append(_change(
            all_of_them, f"with {what}", other.capacity(layout), best[0] if best else None,
            layout, here,
        ))
    return changes


def same_devices(world: World, layout: Layout) -> World:
    """As many devices as this layout has, for the most that they can serve."""
    gpus = layout.devices(world.kinds)
    limits: Limits = replace(world.limits, gpus=gpus, rate=None, cost=None)
    return world.but(limits=limits)


def _change(
    world: World, what: str, mine: Answer, best: Answer | None, layout: Layout, here: float
) -> Change:
    ratio = mine.rate / here
    text = f"{what}: {figure(mine.rate)} requests/s ({ratio - 1:+.0%})"
    found = best or mine
    shape = found.layout.shape
    if best is not None and found.layout != layout and (
        world.worth(found) > (1 + _NOTABLE) * world.worth(mine)
    ):
        text += f"; {found.layout.name(world.kinds)} would serve {figure(found.rate)}"
        if world.limits.by_cost and mine.rate > 0:
            text += f", {world.worth(found) / world.worth(mine) - 1:.0%} more for the money"
        if COLOCATED in (shape, layout.shape) and shape != layout.shape:
            text += (
                ": do not disaggregate then" if shape == COLOCATED else ": disaggregation pays then"
            )
    return Change(
        what=what,
        capacity_per_s=float(f"{mine.rate:.4g}"),
        ratio=float(f"{ratio:.4g}"),
        best=found.layout.name(world.kinds),
        best_shape=shape,
        text=text,
    )

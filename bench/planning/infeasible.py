"""Why nothing meets the wishes, and what would be nearest: one wish given way at a time, or two
where one is not enough; by closed forms that are corrected by what simulations of this load
showed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from baton.bench.planning.candidates import MOST_DEVICES, all_candidates
from baton.bench.planning.closed import Answer, World
from baton.bench.planning.figures import figure
from baton.bench.planning.limits import Limits
from baton.bench.planning.plan import Infeasible, Nearest, ms
from baton.bench.planning.wishes import Wishes
from baton.protocol.units import format_duration

_IDLE = 0.01
"""Of what a layout could carry: nobody waits for anybody."""
_MOST = 64.0
"""Times a target that is not looked beyond."""
_STEPS = 9
_FEWER = 0.8
"""Of the requests that a layout could serve with a much looser target."""
_LEAST_SHARE = 0.5


def infeasible(world: World, most: Answer | None) -> Infeasible:
    """For a world in which nothing serves the rate of its limits. `most`: what serves most, as
    simulated; None where nothing attains at any rate."""
    constraint, text = _constraint(world, most)
    found = [_latency("ttft_ms", world), _latency("itl_ms", world)]
    if world.wishes.e2e is not None:
        found.append(_latency("e2e_ms", world))
    found += [_attainment(world), _gpus(world)]
    if world.limits.rate is not None:
        found.insert(0, _rate(world.limits.rate, world, most))
    nearest = [entry for entry in found if entry.possible is not None]
    if not nearest:
        both = [_latency_and_rate(name, world) for name in ("ttft_ms", "itl_ms")]
        nearest = [entry for entry in both if entry.possible is not None]
    return Infeasible(constraint=constraint, text=text, nearest=nearest)


def smallest(
    feasible: Callable[[float], bool], low: float, high: float, steps: int = _STEPS
) -> float | None:
    """About the least value from `low` to `high` that is feasible, on a logarithmic scale; what is
    feasible is so from there on. None where even `high` is not."""
    if not feasible(high):
        return None
    for _ in range(steps):
        middle = math.sqrt(low * high)
        if feasible(middle):
            high = middle
        else:
            low = middle
    return high


# -- which constraint ------------------------------------------------------------------------


def _constraint(world: World, most: Answer | None) -> tuple[str, str]:
    wishes, kinds, workload = world.wishes, world.kinds, world.workload
    longest = max((item.prompt + item.output for item in workload.items), default=0)
    room = max(k.machine.num_blocks * k.machine.layout.block_size for k in kinds)
    if longest > room:
        return "memory", (
            f"a sequence of {longest:,} tokens does not fit: a worker's memory holds {room:,}"
        )
    idle = _idle(world)
    ttft, itl = min(idle.ttft, default=math.inf), min(idle.itl, default=math.inf)
    share = f"{wishes.attainment:.0%}"
    if ttft > wishes.ttft:
        return "ttft", (
            f"no number of workers keeps a TTFT of {format_duration(wishes.ttft)} for {share} of "
            f"requests: alone in the cluster they take {format_duration(ttft)}"
        )
    if itl > wishes.itl:
        return "itl", (
            f"no number of workers keeps an ITL of {format_duration(wishes.itl)} for {share} of "
            f"requests: alone on a worker they take {format_duration(itl)} between tokens"
        )
    if wishes.e2e is not None and not _serves(world) and _serves(_relaxed(world)):
        return "e2e", (
            f"answers are too long for {format_duration(wishes.e2e)} end to end: all but the "
            "longest share that may miss would need a shorter time between tokens than there is"
        )
    if most is None or most.rate <= 0:
        return "gpus", (
            f"{world.limits.gpus} GPUs cannot do both: TTFT and ITL are each kept by some layout, "
            "together by none"
        )
    rate = world.limits.rate
    wanted = "" if rate is None else f", {figure(rate)} are wanted"
    return "gpus", (
        f"{_limit(world.limits)} serve at most {figure(most.rate)} requests/s within the targets "
        f"({most.layout.name(kinds)}){wanted}"
    )


@dataclass(frozen=True)
class _Idle:
    """The latencies that the wanted share keeps where nobody waits, by layout; seconds."""

    ttft: Sequence[float]
    itl: Sequence[float]


def _idle(world: World) -> _Idle:
    share = world.wishes.attainment
    limits = replace(world.limits, rate=None, cost=None, use_all=True)
    ttft, itl = [], []
    for candidate in all_candidates(world.kinds, limits, world.workload):
        tails = candidate.model.forecast(_IDLE * candidate.model.bound).tails
        ttft.append(tails.ttft(share))
        itl.append(tails.itl(share))
    return _Idle(ttft, itl)


def _limit(limits: Limits) -> str:
    gpus = f"{limits.gpus} GPU{'s' if limits.gpus > 1 else ''}"
    return gpus if limits.cost is None else f"{limits.cost:g} an hour ({gpus})"


# -- what would be nearest -------------------------------------------------------------------


def _best(world: World) -> Answer | None:
    return next(iter(world.best()), None)


def _serves(world: World) -> bool:
    """What fewer devices could, all of them can."""
    found = _best(world.but(limits=replace(world.limits, use_all=True)))
    if found is None or found.rate <= 0:
        return False
    return world.limits.rate is None or found.rate >= world.limits.rate


def _relaxed(world: World) -> World:
    return world.but(wishes=replace(world.wishes, e2e=None))


def _latency(name: str, world: World) -> Nearest:
    what = name.removesuffix("_ms")
    asked: float = getattr(world.wishes, what)

    def with_target(seconds: float) -> World:
        changed: Wishes = replace(world.wishes, **{what: seconds})
        return world.but(wishes=changed)

    found = smallest(lambda factor: _serves(with_target(asked * factor)), 1.0, _MOST)
    if found is None:
        return _no(name, 1e3 * asked)
    answer = _best(with_target(asked * found))
    assert answer is not None
    layout = answer.layout.name(world.kinds)
    return Nearest(
        change=name,
        asked=1e3 * asked,
        possible=ms(asked * found),
        layout=layout,
        text=f"{what.upper()} {format_duration(asked * found)} instead of "
             f"{format_duration(asked)}, with {layout}",
    )


def _latency_and_rate(name: str, world: World) -> Nearest:
    """Where no target alone is enough: first fewer requests, then the target that they allow."""
    what, asked = name.removesuffix("_ms"), world.limits.rate
    target: float = getattr(world.wishes, what)
    loose = replace(world.wishes, **{what: target * _MOST})
    most = _best(world.but(wishes=loose))
    if most is None or most.rate <= 0:
        return _no(name, 1e3 * target)
    rate = _FEWER * (most.rate if asked is None else min(most.rate, asked))
    found = _latency(name, world.but(limits=replace(world.limits, rate=rate)))
    if found.possible is None:
        return found
    text = f"{found.text}, and {figure(rate)} requests/s"
    return msgspec.structs.replace(
        found, text=text if asked is None else f"{text} instead of {figure(asked)}"
    )


def _attainment(world: World) -> Nearest:
    asked = world.wishes.attainment

    def with_share(share: float) -> World:
        return world.but(wishes=replace(world.wishes, attainment=share))

    misses = 1 - asked
    most = (1 - _LEAST_SHARE) / misses if misses > 0 else 0.0
    found = None
    if most > 1:
        found = smallest(lambda f: _serves(with_share(1 - f * misses)), 1.0, most, 6)
    if found is None:
        return _no("attainment", asked)
    share = 1 - found * misses
    answer = _best(with_share(share))
    assert answer is not None
    layout = answer.layout.name(world.kinds)
    return Nearest(
        change="attainment", asked=asked, possible=float(f"{share:.3g}"), layout=layout,
        text=f"{share:.1%} of requests instead of {asked:.1%}, with {layout}",
    )


def _gpus(world: World) -> Nearest:
    """Whatever they cost."""
    asked = world.limits.gpus

    def with_gpus(count: int) -> World:
        return world.but(limits=replace(world.limits, gpus=count, cost=None))

    low, high = asked, min(MOST_DEVICES, 8 * asked)
    if not _serves(with_gpus(high)):
        return _no("gpus", asked)
    while high > low + max(1, low // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if _serves(with_gpus(middle)) else (middle, high)
    answer = _best(with_gpus(high))
    assert answer is not None
    layout, used = answer.layout.name(world.kinds), answer.layout.devices(world.kinds)
    return Nearest(
        change="gpus", asked=asked, possible=used, layout=layout,
        text=f"{used} GPUs instead of {asked}: {layout}",
    )


def _rate(asked: float, world: World, most: Answer | None) -> Nearest:
    if most is None or most.rate <= 0:
        return _no("rate_per_s", asked)
    layout = most.layout.name(world.kinds)
    return Nearest(
        change="rate_per_s", asked=asked, possible=float(f"{most.rate:.4g}"), layout=layout,
        text=f"{figure(most.rate)} requests/s instead of {figure(asked)}, with {layout}",
    )


def _no(change: str, asked: float) -> Nearest:
    return Nearest(change=change, asked=asked, possible=None, layout="", text="")

"""All layouts that the devices allow, and the few of each shape that closed forms like best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.hosts import link_within
from baton.bench.planning.layout import Layout, Role, make_layout
from baton.bench.planning.limits import Limits
from baton.bench.planning.plan import SHAPES
from baton.protocol.curves import LinkCurve
from baton.router.planner.layouts import Capacity, Device, LayoutModel, Sized
from baton.router.planner.phases import Kind, PhaseModel
from baton.router.planner.workload import Workload

Score = tuple[bool, float, float]

MOST_DEVICES = 256
_OPTIMISM = 1.1
"""Closed forms are not exact: a layout that lacks a tenth may do."""


@dataclass(slots=True)
class Candidate:
    layout: Layout
    model: LayoutModel
    closed: Capacity | None = field(default=None, repr=False)
    """None until it was worked out."""


def device_of(kind: WorkerKind, link: LinkCurve | None = None) -> Device:
    """As the closed forms see it. `link`: in place of its own."""
    machine = kind.machine
    layout = machine.layout
    return Device(
        Kind(
            machine.curve,
            machine.num_blocks * layout.block_size,
            machine.limits.max_running,
            machine.limits.max_batch_tokens,
            machine.limits.prefill_chunk,
        ),
        link or machine.link,
        layout.block_bytes / layout.block_size,
    )


def model_of(layout: Layout, kinds: Sequence[WorkerKind], workload: Workload) -> LayoutModel:
    def made_of(pool: Role) -> Sized:
        kind = kinds[pool.kind]
        return Sized(device_of(kind, link_within(layout, kind)), pool.workers)

    def sized(role: str) -> Sized | None:
        pool = layout.pool(role)
        return None if pool is None else made_of(pool)

    both = layout.pool("mixed")
    if layout.by_cost and both is not None:
        return _divided(made_of(both), workload)
    return LayoutModel(
        workload, prefill=sized("prefill"), mixed=sized("mixed"), decode=sized("decode")
    )


def _divided(both: Sized, workload: Workload) -> LayoutModel:
    """Workers that may do both divide the work as it comes: about as the best split would."""
    model = PhaseModel(workload, both.device.kind)
    reading, writing = 1 / model.prefill_rate, 1 / model.decode_rate
    ideal = both.workers * reading / (reading + writing) if reading + writing > 0 else 0.0
    around = {min(both.workers - 1, max(1, count)) for count in (int(ideal), int(ideal) + 1)}
    found = [LayoutModel(workload, mixed=both)] + [
        LayoutModel(
            workload, prefill=both._replace(workers=count),
            decode=both._replace(workers=both.workers - count),
        )
        for count in sorted(around)
        if both.workers > 1
    ]
    return max(found, key=lambda model: model.bound)


def layouts(kinds: Sequence[WorkerKind], limits: Limits) -> Iterator[Layout]:
    """All that are allowed. With no rate to serve only those to which no worker can be added."""
    for layout in _all(kinds, limits):
        if limits.allows(layout, kinds) and (
            not limits.all_of_them or not _has_room(layout, kinds, limits)
        ):
            yield layout


def _all(kinds: Sequence[WorkerKind], limits: Limits) -> Iterator[Layout]:
    most = [limits.gpus // kind.devices for kind in kinds]
    for kind, count in enumerate(most):
        for workers in range(1, count + 1):
            yield make_layout(kinds, mixed=(workers, kind))
            if workers > 1:
                yield make_layout(kinds, strict=False, mixed=(workers, kind))
            for mixed in range(1, workers):
                yield make_layout(
                    kinds, strict=False, prefill=(workers - mixed, kind), mixed=(mixed, kind)
                )
                yield make_layout(
                    kinds, strict=False, mixed=(mixed, kind), decode=(workers - mixed, kind)
                )
    for first, count in enumerate(most):
        for last in range(len(kinds)):
            for prefills in range(1, count + 1):
                left = limits.gpus - prefills * kinds[first].devices
                for decodes in range(1, left // kinds[last].devices + 1):
                    for strict in (True, False):
                        yield make_layout(
                            kinds, strict=strict, prefill=(prefills, first),
                            decode=(decodes, last),
                        )


def _has_room(layout: Layout, kinds: Sequence[WorkerKind], limits: Limits) -> bool:
    """For one more worker of any of its pools, or for a larger kind in its place."""
    return any(limits.allows(_with(layout, role.role, 1), kinds) for role in layout.pools)


def _with(layout: Layout, role: str, more: int) -> Layout:
    return Layout(
        tuple(
            Role(pool.role, pool.workers + (more if pool.role == role else 0), pool.kind)
            for pool in layout.pools
        ),
        layout.strict,
    )


def all_candidates(
    kinds: Sequence[WorkerKind],
    limits: Limits,
    workload: Workload,
    shapes: Sequence[str] = SHAPES,
) -> list[Candidate]:
    return [
        Candidate(layout, model_of(layout, kinds, workload))
        for layout in layouts(kinds, limits)
        if layout.shape in shapes
    ]


def choose(
    candidates: Sequence[Candidate],
    kinds: Sequence[WorkerKind],
    limits: Limits,
    attainment: float,
    count: int,
    factors: dict[str, float] | None = None,
) -> list[Candidate]:
    """The best `count` of each shape by closed forms, at the wanted `attainment`. `factors`: what
    simulations showed of a shape, over what closed forms say."""
    chosen = []
    for shape in SHAPES:
        factor = (factors or {}).get(shape, _OPTIMISM)
        of_shape = [c for c in candidates if c.layout.shape == shape]

        def score(candidate: Candidate, rate: float, factor: float = factor) -> Score:
            return limits.score(rate * factor, candidate.layout, kinds)

        chosen += _best(of_shape, score, attainment, count)
    return chosen


def _best(
    candidates: Sequence[Candidate],
    score: Callable[[Candidate, float], Score],
    attainment: float,
    count: int,
) -> list[Candidate]:
    def bound(candidate: Candidate) -> Score:
        return score(candidate, candidate.model.bound)

    def value(candidate: Candidate) -> Score:
        return score(candidate, closed_of(candidate, attainment).rate)

    best: list[Candidate] = []
    for candidate in sorted(candidates, key=bound, reverse=True):
        # None of those to come can carry more than its bound.
        if len(best) >= count and bound(candidate) <= value(best[count - 1]):
            break
        best.append(candidate)
        best.sort(key=value, reverse=True)
    return best[:count]


def closed_of(candidate: Candidate, attainment: float) -> Capacity:
    """Worked out once."""
    if candidate.closed is None:
        candidate.closed = candidate.model.capacity(attainment)
    return candidate.closed

"""A part of a layout that is small enough to be simulated, in its place.

What the whole carries is what the part does, times what closed forms say of the whole over what
they say of the part: they know that more workers share their queues better, and what another ratio
of roles makes of it where the part cannot have the same one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from baton.bench.planning.candidates import Candidate, closed_of, model_of
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.layout import Layout, Role
from baton.bench.planning.steady import Length, expected_life, span_of
from baton.bench.planning.wishes import Wishes
from baton.router.planner.workload import Workload

REQUEST_TOKENS = 100
"""Output tokens that take as long to simulate as what every request takes beside its tokens."""


@dataclass(frozen=True, slots=True)
class Slice:
    layout: Layout
    scale: float
    """Requests per second of the whole for each one of the part."""


def whole(layout: Layout) -> Slice:
    return Slice(layout, 1.0)


def slice_of(
    candidate: Candidate,
    kinds: Sequence[WorkerKind],
    workload: Workload,
    wishes: Wishes,
    *,
    length: Length,
    tokens: float,
    sessions: bool,
) -> Slice:
    """All of it if a run near its capacity has at most about so many `tokens` of output, every
    request counted as REQUEST_TOKENS more."""
    layout, model = candidate.layout, candidate.model
    rate = closed_of(candidate, wishes.attainment).rate or model.bound
    if not 0 < rate < math.inf:
        return whole(layout)
    life = expected_life(model, workload, wishes, rate)
    seconds = span_of(life, wishes, rate, length, sessions=sessions).all
    work = rate * seconds * (workload.gaps + 1 + REQUEST_TOKENS)
    least = 2 if len(layout.pools) > 1 or layout.by_cost else 1
    wanted = max(least, math.floor(layout.workers * min(1.0, tokens / work)))
    if wanted >= layout.workers:
        return whole(layout)
    found = _like(layout, wanted)
    part = Candidate(found, model_of(found, kinds, workload))
    return Slice(found, _over(candidate, part, wishes.attainment))


def _like(layout: Layout, workers: int) -> Layout:
    """Of at most so many, with roles as nearly in the same ratio as can be; of those that are
    equally near, the largest."""
    pools = layout.pools
    counts = [
        found for found in product(*(range(1, pool.workers + 1) for pool in pools))
        if sum(found) <= workers
    ]

    def far(found: Sequence[int]) -> tuple[float, int]:
        shares = [math.log(n / pool.workers) for n, pool in zip(found, pools, strict=True)]
        return round(max(shares) - min(shares), 6), -sum(found)

    best = min(counts, key=far)
    return Layout(
        tuple(Role(p.role, n, p.kind) for n, p in zip(best, pools, strict=True)), layout.strict
    )


def _over(candidate: Candidate, part: Candidate, attainment: float) -> float:
    mine, its = closed_of(candidate, attainment).rate, closed_of(part, attainment).rate
    if mine > 0 and its > 0:
        return mine / its
    bounds = candidate.model.bound, part.model.bound
    if all(0 < bound < math.inf for bound in bounds):
        return bounds[0] / bounds[1]
    return candidate.layout.workers / part.layout.workers

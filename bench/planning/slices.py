"""A part of a layout that is small enough to be simulated, in its place.

What the whole carries is what the part does, times what closed forms say of the whole over what
they say of the part: they know that more workers share their queues better, and what another ratio
of roles makes of it where the part cannot have the same one. What ends it is the same for both
where that can be: a correction of how prompts are read says nothing of how tokens are written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from baton.bench.planning.candidates import Candidate, closed_of, model_of
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.hosts import spans_hosts
from baton.bench.planning.layout import Layout
from baton.bench.planning.steady import Length, expected_life, span_of
from baton.bench.planning.wishes import Wishes
from baton.router.planner.workload import Workload

REQUEST_TOKENS = 100
"""Output tokens that take as long to simulate as what every request takes beside its tokens."""
_MORE = 2
"""Times as many workers as there should be, so that the same ends the part as ends the whole."""


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
    request counted as REQUEST_TOKENS more; and where a part of it would have other neighbours."""
    layout, model = candidate.layout, candidate.model
    rate = closed_of(candidate, wishes.attainment).rate or model.bound
    if not 0 < rate < math.inf or spans_hosts(layout, kinds):
        return whole(layout)
    life = expected_life(model, workload, wishes, rate)
    seconds = span_of(life, wishes, rate, length, sessions=sessions).all
    work = rate * seconds * (workload.gaps + 1 + REQUEST_TOKENS)
    least = 2 if len(layout.pools) > 1 or layout.by_cost else 1
    wanted = max(least, math.floor(layout.workers * min(1.0, tokens / work)))
    if wanted >= layout.workers:
        return whole(layout)
    binds = closed_of(candidate, wishes.attainment).binds
    parts = [
        Candidate(found, model_of(found, kinds, workload))
        for found in _likes(layout, binds, min(_MORE * wanted, layout.workers))
    ]

    def unlike(part: Candidate) -> tuple[float, ...]:
        other = closed_of(part, wishes.attainment).binds != binds
        workers = part.layout.workers
        return other, max(0, workers - wanted), _far(layout, part.layout), -workers

    part = min(parts, key=unlike)
    return Slice(part.layout, _over(candidate, part, wishes.attainment))


def _likes(layout: Layout, binds: str, workers: int) -> list[Layout]:
    """Of at most so many workers."""
    pools = layout.pools
    mixed = layout.pool("mixed")
    if binds == "all" and mixed is not None and len(pools) > 1 and (
        len({pool.kind for pool in pools}) == 1
    ):
        # The time of all together ends it, so who has which role does not matter.
        pools = (replace(mixed, workers=layout.workers),)
    least = 2 if len(pools) == 1 and not layout.strict else 1
    return [
        Layout(tuple(replace(p, workers=n) for n, p in zip(found, pools, strict=True)),
               layout.strict)
        for found in product(*(range(least, pool.workers + 1) for pool in pools))
        if sum(found) <= workers
    ]


def _far(layout: Layout, part: Layout) -> float:
    """From the same ratio of roles; 0 where there is but one."""
    if len(part.pools) == 1:
        return 0.0
    shares = [math.log(part.count(p.role) / p.workers) for p in layout.pools]
    return round(max(shares) - min(shares), 6)


def _over(candidate: Candidate, part: Candidate, attainment: float) -> float:
    mine, its = closed_of(candidate, attainment).rate, closed_of(part, attainment).rate
    if mine > 0 and its > 0:
        return mine / its
    bounds = candidate.model.bound, part.model.bound
    if all(0 < bound < math.inf for bound in bounds):
        return bounds[0] / bounds[1]
    return candidate.layout.workers / part.layout.workers

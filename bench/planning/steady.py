"""How long a load must last to show what a layout carries for good.

    |--- warm ---|---------------- counted ----------------|-- after --|
     1.25 lives   `lives` x the longer of life and 2 x TTFT  a quarter

A life is a mean request's, from its arrival to its last token. A load that is over sooner shows
nothing: no batch is as large as it will be, no memory as full, and all of a burst may wait for
less than a TTFT target though such a rate could not be kept up. So more requests per second are
more requests; where that is too many, a slice of the layout is simulated (`slices.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from baton.bench.planning.candidates import model_of
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.layout import Layout
from baton.bench.planning.loads import Load
from baton.bench.planning.run import Look, RunFigures, Span, run_load
from baton.bench.planning.wishes import Wishes
from baton.router.planner.layouts import LayoutModel
from baton.router.planner.workload import Workload

_SESSION_SECONDS = 30.0
"""That it takes until conversations of all ages are there."""
_LONGER = 1.2
"""Times as long as expected requests may live, or the run was too short."""
_MOST_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How much a run has to show at least."""

    requests: int
    """That count."""
    lives: float
    """That follow each other while requests count. A rate beyond what can be kept up by about
    1 / (2 x lives) is not told from one that can."""
    seconds: float = 0.0
    """That count."""


def longest_life(workload: Workload, wishes: Wishes) -> float:
    """Seconds that targets allow a mean request: one that lives longer misses them."""
    allowed = wishes.ttft + workload.gaps * wishes.itl
    return allowed if wishes.e2e is None else min(allowed, wishes.e2e)


def expected_life(
    model: LayoutModel, workload: Workload, wishes: Wishes, rate: float
) -> float:
    """By closed forms, at this rate or nearly as much as they say that can be kept up."""
    found = model.forecast(min(rate, 0.95 * model.bound))
    return min(longest_life(workload, wishes), found.ttft + workload.gaps * found.itl)


def span_of(life: float, wishes: Wishes, rate: float, length: Length, *, sessions: bool) -> Span:
    """At `rate` requests per second that live for `life` seconds."""
    return Span(
        warm=max(1.25 * life, _SESSION_SECONDS if sessions else 0.0),
        counted=max(length.requests / rate, length.lives * max(life, 2 * wishes.ttft),
                    length.seconds),
        after=0.25 * life,
    )


def run_steady(
    layout: Layout,
    kinds: tuple[WorkerKind, ...],
    load: Load,
    workload: Workload,
    wishes: Wishes,
    *,
    rate: float,
    length: Length,
    seed: int,
    watch: bool = False,
    lived: float = 0.0,
    look: Look | None = None,
) -> tuple[Span, RunFigures]:
    """As long as it must be, and how long that was. `workload`: the load, as closed forms see it.
    `lived`: seconds that requests are known to live at a rate like this. `look`: at each run; the
    last one counts."""
    expected = expected_life(model_of(layout, kinds, workload), workload, wishes, rate)
    most = longest_life(workload, wishes)
    life = min(most, max(expected, lived))
    for number in range(_MOST_RUNS):
        span = span_of(life, wishes, rate, length, sessions=load.sessions)
        seen = run_load(layout, kinds, load, wishes, rate=rate, span=span, seed=seed, watch=watch,
                        look=look)
        # What misses already would not do better if it lasted longer.
        enough = life >= most or seen.life <= _LONGER * life or seen.attainment < wishes.attainment
        if enough or number == _MOST_RUNS - 1:
            break
        life = min(most, 1.1 * seen.life)
    return span, seen

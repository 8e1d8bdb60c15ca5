"""What a reader of a plan should know of how its capacities came about: where simulation and
closed forms contradict each other, and what was simulated in place of the whole."""

from __future__ import annotations

from collections.abc import Sequence

from baton.bench.planning.candidates import closed_of
from baton.bench.planning.figures import figure
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.loads import Trace
from baton.bench.planning.survivors import Survivor, ceiling_of

MOST = 1.5
"""Times that simulation and closed form may differ without a word."""


_SAME = 0.9
"""Of the seeds there are, as how many at least they must be for their intervals to hold."""


def repeated(trace: Trace, survivors: Sequence[Survivor]) -> list[str]:
    """One line where seeds have so many requests of the trace in common that an interval over them
    says nothing of other traffic like it."""
    runs = [survivor.seen for survivor in survivors if survivor.seen]
    if not runs:
        return []
    most = max(run.requests for seen in runs for run in seen)
    seeds = [run.seed for run in runs[0]]
    unlike = trace.unlike(seeds, most)
    if len(seeds) < 2 or unlike >= _SAME * len(seeds):
        return []
    there = len(trace.requests) - trace.left_out
    return [
        f"the trace is too short for independent seeds: of its {there:,} requests a run counts up "
        f"to {most:,}, so {len(seeds)} seeds are worth {figure(unlike)}; intervals are too narrow, "
        "they leave out what other traffic like it would do"
    ]


def doubts(
    survivors: Sequence[Survivor], kinds: Sequence[WorkerKind], attainment: float
) -> list[str]:
    """One line each."""
    found = []
    for survivor in survivors:
        name = survivor.candidate.layout.name(kinds)
        part = survivor.part
        if part is not None and part.layout != survivor.candidate.layout:
            found.append(
                f"{name}: {part.layout.name(kinds)} was simulated, and closed forms say that the "
                f"whole carries {figure(part.scale)} times as much"
            )
        closed, simulated = closed_of(survivor.candidate, attainment).rate, survivor.capacity
        if max(closed, simulated) > MOST * min(closed, simulated):
            found.append(
                f"{name}: simulation says {figure(simulated)} requests/s, closed forms say "
                f"{figure(closed)}; at least one of them is wrong, so measure before you rely on it"
            )
        if 0 < ceiling_of(survivor.candidate) <= max(survivor.rates, default=0.0):
            found.append(
                f"{name}: the search ended at {figure(ceiling_of(survivor.candidate))} requests/s, "
                "more than its busiest resource allows; its capacity is not known"
            )
    return found

"""What a reader of a plan should know of how its capacities came about: where simulation and
closed forms contradict each other, and what was simulated in place of the whole."""

from __future__ import annotations

from collections.abc import Sequence

from baton.bench.planning.candidates import closed_of
from baton.bench.planning.figures import figure
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.survivors import Survivor, ceiling_of

MOST = 1.5
"""Times that simulation and closed form may differ without a word."""


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

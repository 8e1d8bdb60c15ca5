"""What is asked of a layout: targets for each request, and how many must keep them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from baton.bench.simulator.outcome import Outcome
from baton.protocol.records import Targets
from baton.router.planner.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Seconds. Raises nothing: `inputs` has checked it."""

    ttft: float
    itl: float
    e2e: float | None = None
    attainment: float = 0.95

    @property
    def targets(self) -> Targets:
        """What router and workers know of it."""
        return Targets(ttft=self.ttft, itl=self.itl)

    def kept(self, outcome: Outcome) -> bool:
        """All of them, by a request that was served."""
        if not outcome.attained:
            return False
        return self.e2e is None or outcome.last is None or outcome.last <= self.e2e

    def within(self, workload: Workload) -> Workload:
        """The workload as closed forms are to see it. They know no end-to-end target: it becomes
        what it leaves between tokens of an answer that is longer than all but the share that may
        miss, after a first token that comes when it is due."""
        if self.e2e is None or not workload.items:
            return workload
        gaps = sorted(item.gaps for item in workload.items)
        long = gaps[min(len(gaps) - 1, math.ceil(self.attainment * len(gaps)) - 1)]
        left = max(0.0, self.e2e - min(self.ttft, 0.5 * self.e2e)) / max(1, long)
        items = tuple(item._replace(itl=min(item.itl, left)) for item in workload.items)
        return Workload(workload.rate, items, workload.burstiness)

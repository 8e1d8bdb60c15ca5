"""One system under one load in simulated time, and what it was worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from baton.bench.routing.systems import System
from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.outcome import Outcome, window
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.named import KINDS
from baton.protocol.curves import StepShape
from baton.protocol.records import Targets
from baton.router.dispatcher import Dispatcher
from baton.router.lanes import Lanes, configure
from baton.router.observer import Observer

PATIENCE = 10.0
"""Times the TTFT target."""


@dataclass(frozen=True)
class Trial:
    system: str
    run: Run
    outcomes: list[Outcome]
    """Of requests that arrived in the part that counts."""
    seconds: float
    """Of that part."""

    @property
    def goodput(self) -> float:
        """Requests that attained their targets, per second."""
        return sum(outcome.attained for outcome in self.outcomes) / self.seconds


def lanes_for(targets: Targets) -> Lanes:
    """An operator who asked for these."""
    return Lanes(configure(targets.ttft, targets.itl))


def run_trial(
    system: System,
    machine: Machine,
    arrivals: Iterable[Arrival],
    *,
    lanes: Lanes,
    count: tuple[float, float],
    seed: int,
    prepare: Callable[[Cluster], None] = lambda cluster: None,
    limit: float = 600.0,
) -> Trial:
    """`count`: the part of the load, from and to, that counts. `prepare` may plan what happens to
    the cluster. Ends when all requests have, at the latest `limit` seconds after the part."""

    def dispatcher(observer: Observer) -> Dispatcher:
        return Dispatcher(
            None, observer, lanes=lanes, max_queue=100_000, decide=system.decide,
            strict_roles=not system.automatic,
        )

    cluster = Cluster(
        system.workers(machine), seed=seed, dispatcher=dispatcher, sizing=system.automatic
    )
    prepare(cluster)
    run = cluster.run(arrivals, until=count[1] + limit)
    return Trial(system.name, run, window(run.outcomes, *count), count[1] - count[0])


def capacity(kind: str, machine: Machine, targets: Targets) -> float:
    """Requests of a kind per second and worker that the device could serve at most, roughly: for
    choosing rates. Prompts in whole chunks, decodes in batches as large as targets and memory
    allow."""
    what = KINDS[kind]
    context = what.prompt + what.output // 2 + (2000 if what.turns > 1 else 0)
    curve, limits = machine.curve, machine.limits
    itl = targets.itl or 1.0
    room = machine.num_blocks * machine.layout.block_size // (context + what.output)
    batch = max(1, min(limits.max_running, room))
    while batch > 1 and curve.seconds(StepShape.decodes(batch, batch * context)) > 0.9 * itl:
        batch -= 1
    step = curve.seconds(StepShape.decodes(batch, batch * context))
    prefill = curve.prefill_seconds(what.prompt, 0, limits.prefill_chunk)
    return 1 / (prefill + what.output * step / batch)



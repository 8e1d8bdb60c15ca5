"""Named kinds of work on a machine, with the targets that its operator would set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from baton.bench.simulator.machine import Machine
from baton.bench.workloads import arrivals as workloads
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.workload import Part
from baton.protocol.curves import StepShape
from baton.protocol.records import Targets


def targets_for(machine: Machine, prompt: int) -> Targets:
    """What an operator of such machines would ask for: some times what a typical request takes
    alone."""
    alone = machine.curve.prefill_seconds(prompt, 0, machine.limits.prefill_chunk)
    step = machine.curve.seconds(StepShape.decodes(1, prompt))
    return Targets(ttft=round(4 * alone + 10 * step, 3), itl=round(2.5 * step, 4))


def arrivals(
    parts: Sequence[Part], machine: Machine, seed: int, *, targets: Targets | None = None
) -> Iterator[Arrival]:
    """In the order of their times. `targets`: for all; otherwise those of each kind."""
    return workloads.arrivals(
        parts, seed, lambda kind: targets or targets_for(machine, kind.prompt)
    )


def in_lane(stream: Iterator[Arrival], lane: str, targets: Targets) -> Iterator[Arrival]:
    """The same requests in another lane."""
    for arrival in stream:
        yield replace(arrival, lane=lane, targets=targets)

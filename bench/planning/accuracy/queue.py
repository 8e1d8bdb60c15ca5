"""A prefill worker as an M/D/1 queue: the closed form, the planner's and the simulated cluster's.

    mean time to first token = D + R D^2 / (2 (1 - R D))

for prompts that take D seconds each, one after the other, and come as a Poisson process of rate R.
The simulated worker is one of the real scheduler, whose steps hold one prompt and have no noise.
A queue's mean settles slowly, so what is compared is by how much the simulated worker differs from
the exact queue (Lindley's recursion) on the very same arrivals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import NamedTuple

import msgspec

from baton.bench.simulator.cluster import Cluster
from baton.bench.simulator.machine import Machine
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.tokens import random_tokens
from baton.engine.limits import SchedulerLimits
from baton.router.planner.phases import Kind, PhaseModel
from baton.router.planner.workload import Item, Workload


class Queue(NamedTuple):
    """Mean seconds to the first token."""

    load: float
    """R times D."""
    formula: float
    planner: float
    simulated: float
    """The formula's, and what the simulated worker had on top of the exact queue."""


def md1(seconds: float, rate: float) -> float:
    """Mean time in the system. Raises ValueError at or beyond what it can serve."""
    load = seconds * rate
    if load >= 1:
        raise ValueError(f"no steady state at a load of {load:g}")
    return seconds + rate * seconds**2 / (2 * (1 - load))


def queue(machine: Machine, prompt: int, load: float, count: int, seed: int = 1) -> Queue:
    """`machine`'s links and pool do not matter; `count` requests are simulated."""
    curve = msgspec.structs.replace(machine.curve, spread=0.0, covariance=())
    seconds = curve.prefill_seconds(prompt, 0, prompt)
    rate = load / seconds
    single = replace(
        machine,
        curve=curve,
        limits=SchedulerLimits(
            max_model_len=max(2 * prompt, machine.limits.max_model_len),
            max_running=prompt - 1,
            max_batch_tokens=prompt,
            prefill_chunk=prompt,
        ),
    )
    kind = Kind(curve, machine.num_blocks * machine.layout.block_size, prompt - 1, prompt,
                prompt)
    planned = PhaseModel(Workload(rate, (Item(prompt, 0, 1),)), kind).prefill(1, rate)
    times = _times(rate, count, seed)
    run = Cluster([("mixed", single)], seed=seed).run(
        Arrival(at=at, prompt=partial(random_tokens, (seed << 32) + number, prompt), length=1,
                limit=1, noise=number)
        for number, at in enumerate(times)
    )
    ttft = [outcome.ttft for outcome in run.outcomes if outcome.ttft is not None]
    if len(ttft) != count:
        raise AssertionError(f"{count - len(ttft)} of {count} requests got no token")
    formula = md1(seconds, rate)
    apart = sum(ttft) / count - exact(times, seconds)
    return Queue(load, formula, planned.ttft, formula + apart)


def exact(times: Sequence[float], seconds: float) -> float:
    """Mean time in the system of one server, first come first served, for these arrivals."""
    total = free = 0.0
    for at in times:
        free = max(free, at) + seconds
        total += free - at
    return total / len(times)


def _times(rate: float, count: int, seed: int) -> list[float]:
    random = Random(seed)
    times = []
    at = 0.0
    for _ in range(count):
        at += random.expovariate(rate)
        times.append(at)
    return times

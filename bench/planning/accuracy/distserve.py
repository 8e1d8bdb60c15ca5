"""DistServe's worked example: OPT-13B on A100s, prompts of 512 and answers of 64 tokens, of which
nine in ten have their first token within 0.4 s and the others within 0.04 s each.

Published: 1.6 requests per second on one colocated worker, 5.6 on one that only reads prompts, 10
on one that only writes; so two that read and one that writes carry 10, which is 3.3 per GPU.

Those rates were measured on engines of 2023, which are not those of the published fits of step
times: with the fits as they are, one worker reads 10.7 prompts per second within these targets. So
the example is recomputed from a machine that is slowed down, its prompts and its decodes each,
until one worker reads 5.6 and one writes 10. What it then says of colocated workers and of the
split is the prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from baton.bench.planning.accuracy.one_worker import Job
from baton.bench.planning.accuracy.open_loop import highest_rate, open_loop
from baton.bench.simulator.machine import Machine
from baton.protocol.curves import StepCurve
from baton.router.planner.phases import Kind, PhaseModel
from baton.router.planner.workload import Item, Workload

MODEL = "facebook/opt-13b"
PROMPT, OUTPUT = 512, 64
TTFT, TPOT, SHARE = 0.4, 0.04, 0.9
READS, WRITES, COLOCATED, PER_GPU = 5.6, 10.0, 1.6, 10.0 / 3
_MOST = 40.0
"""Requests per second."""


class Rates(NamedTuple):
    """Highest, in requests per second of one worker."""

    reads: float
    writes: float


class Example(NamedTuple):
    planner: Rates
    """By its closed forms, from the fits as they are."""
    simulated: Rates
    colocated: float
    """Simulated, prompts first."""
    slower_reads: float
    """Times as long as the fit says that a prompt takes, for READS."""
    slower_writes: float
    slowed_colocated: float
    slowed_split: float
    """Of two that read and one that writes, by the closed forms."""


def example(machine: Machine, count: int = 4000) -> Example:
    """`machine`: of DistServe's fit of MODEL on one GPU; `count` requests are simulated each."""
    curve = msgspec.structs.replace(machine.curve, spread=0.0, covariance=())
    kv = machine.num_blocks * machine.layout.block_size
    reads = _bisected(lambda k: _planned(_slowed(curve, k, 1.0), kv).reads, READS)
    writes = _bisected(lambda k: _planned(_slowed(curve, 1.0, k), kv).writes, WRITES)
    slowed = _slowed(curve, reads, writes)
    return Example(
        planner=_planned(curve, kv),
        simulated=Rates(
            highest_rate(lambda rate: _ttft(curve, rate, count), TTFT, SHARE, _MOST),
            highest_rate(
                lambda rate: _tpot(_run(curve, rate, count, 0, context=PROMPT)), TPOT, SHARE,
                _MOST,
            ),
        ),
        colocated=_together(curve, count),
        slower_reads=reads,
        slower_writes=writes,
        slowed_colocated=_together(slowed, count),
        slowed_split=min(_planned(slowed, kv, 2).reads, _planned(slowed, kv).writes),
    )


# -- inside ----------------------------------------------------------------------------------


def _planned(curve: StepCurve, kv_tokens: int, servers: int = 1) -> Rates:
    """Prompts one at a time, as in the queue of the paper."""
    kind = Kind(curve, kv_tokens, 1 << 20, PROMPT)

    def attained(rate: float) -> tuple[float, float]:
        workload = Workload(rate, (Item(PROMPT, 0, OUTPUT, TTFT, TPOT),))
        model = PhaseModel(workload, kind)
        return (
            model.prefill(servers, rate).attained[0],
            model.decode(servers, rate, 0.0).attained[0],
        )

    return Rates(
        _highest(lambda rate: attained(rate)[0] >= SHARE),
        _highest(lambda rate: attained(rate)[1] >= SHARE),
    )


def _together(curve: StepCurve, count: int) -> float:
    """Both on one worker, prompts first, whole."""
    jobs: dict[float, list[Job]] = {}

    def run(rate: float) -> list[Job]:
        if rate not in jobs:
            jobs[rate] = _run(curve, rate, count, PROMPT)
        return jobs[rate]

    return min(
        highest_rate(lambda rate: [job.ttft for job in run(rate)], TTFT, SHARE, _MOST),
        highest_rate(lambda rate: _tpot(run(rate)), TPOT, SHARE, _MOST),
    )


def _ttft(curve: StepCurve, rate: float, count: int) -> list[float]:
    return [
        job.ttft
        for job in open_loop(curve, rate, count, PROMPT, 1, filling="prompts first",
                             step_tokens=PROMPT)
    ]


def _tpot(jobs: list[Job]) -> list[float]:
    return [job.tpot for job in jobs]


def _run(
    curve: StepCurve, rate: float, count: int, prompt: int, context: int = 0
) -> list[Job]:
    return open_loop(curve, rate, count, prompt, OUTPUT, context=context,
                     filling="prompts first", step_tokens=PROMPT)


def _slowed(curve: StepCurve, reads: float, writes: float) -> StepCurve:
    """Steps of prompts take `reads` times as long, steps of decodes `writes` times."""
    return msgspec.structs.replace(
        curve,
        base=curve.base * writes,
        chunk=curve.chunk * reads + max(0.0, curve.base * (reads - writes)),
        token=curve.token * reads + min(0.0, curve.base * (reads - writes)) / PROMPT,
        pair=curve.pair * reads,
        decode=curve.decode * writes,
        context=curve.context * writes,
    )


def _bisected(rate: Callable[[float], float], wanted: float) -> float:
    """The factor in [0.5, 4] at which `rate`, which falls with it, is as wanted."""
    low, high = 0.5, 4.0
    for _ in range(30):
        middle = math.sqrt(low * high)
        if rate(middle) > wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def _highest(good: Callable[[float], bool]) -> float:
    low, high = 0.0, _MOST
    for _ in range(24):
        rate = (low + high) / 2
        if good(rate):
            low = rate
        else:
            high = rate
    return low

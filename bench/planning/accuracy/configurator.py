"""The planner beside `aiconfigurator` on one case: Llama-3.1-8B in 16 bits on 8 H200 with vLLM's
kernels, prompts of 4000 and answers of 500 tokens, first tokens within 300 ms and others within
15 ms each.

It models neither arrivals nor waiting, so the planner's capacities are what compares. Of the same
kernels, without what hosts add, colocated workers come out alike. It lowers what disaggregated
workers can do by factors of its own: prompts take 1.1 times and decodes 1.08 times what kernels
say, and 0.9 and 0.92 of the rates are reached; so the split compares with these, and beside it
stands what the planner says, with what a host adds and without.
"""

from __future__ import annotations

from typing import NamedTuple

from baton.bench.planning.hardware.devices import DEVICES
from baton.bench.planning.hardware.silicon import Host, Silicon
from baton.bench.planning.models import model_shape
from baton.protocol.curves import StepCurve
from baton.router.planner.phases import Kind, PhaseModel
from baton.router.planner.split import Fleet, Group, Split
from baton.router.planner.workload import Item, Workload

MODEL, DEVICE, ENGINE = "llama-3.1-8b", "h200", "vllm"
PROMPT, OUTPUT, TPOT = 4000, 500, 0.015
SPLIT, COLOCATED = 2257.2, {1: 2099.7, 2: 2169.7, 4: 1921.0}
"""Its output tokens per second and GPU: of two TP1 that read and one TP2 that writes; by
tensor-parallel size. Version 0.12."""
_SLOWER = (1.10, 1.08)
_REACHED = (0.90, 0.92)
_POOL = 1 << 30
_MAX_RUNNING = 512
_STEP_TOKENS = 8192


class Case(NamedTuple):
    """Output tokens per second and GPU."""

    colocated: dict[int, float]
    """By tensor-parallel size, of kernels alone."""
    split_as_theirs: float
    """With their factors."""
    split: float
    split_hosted: float
    colocated_hosted: dict[int, float]


def case() -> Case:
    """Raises ConfigError without measured kernels."""
    shape = model_shape(MODEL)
    system = DEVICES[DEVICE].silicon or ""

    def curves(host: Host | None) -> dict[int, StepCurve]:
        return {
            size: Silicon(shape, system, size, ENGINE, host=host).curve().curve
            for size in COLOCATED
        }

    bare, hosted = curves(Host(0.0, 0.0)), curves(None)
    return Case(
        colocated={size: _colocated(curve, size) for size, curve in bare.items()},
        split_as_theirs=_split(
            bare[1].scaled(_SLOWER[0]), bare[2].scaled(_SLOWER[1]), *_REACHED
        ),
        split=_split(bare[1], bare[2]),
        split_hosted=_split(hosted[1], hosted[2]),
        colocated_hosted={size: _colocated(curve, size) for size, curve in hosted.items()},
    )


def _colocated(curve: StepCurve, devices: int) -> float:
    fleet = Fleet([Group(_kind(curve), 1)], _load())
    return fleet.capacity(Split(0, 0, 1))[0] * OUTPUT / devices


def _split(
    reads: StepCurve, writes: StepCurve, reads_reached: float = 1.0, writes_reached: float = 1.0
) -> float:
    """Two that read, of one device each, and one of two that writes."""
    reading = 2 * PhaseModel(_load(), _kind(reads)).prefill_rate * reads_reached
    writing = PhaseModel(_load(), _kind(writes)).decode_rate * writes_reached
    return min(reading, writing) * OUTPUT / 4


def _kind(curve: StepCurve) -> Kind:
    # Latency targets are of means here, so noise needs no room.
    return Kind(StepCurve(**{name: getattr(curve, name) for name in curve.__struct_fields__}
                          | {"spread": 0.0}), _POOL, _MAX_RUNNING, _STEP_TOKENS)


def _load() -> Workload:
    return Workload(1.0, (Item(PROMPT, 0, OUTPUT, itl=TPOT),))

"""Step times that others published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from baton.bench.planning.hardware.links import link_of
from baton.bench.planning.hardware.made import SPREAD
from baton.bench.simulator.machine import Machine
from baton.engine.limits import SchedulerLimits
from baton.protocol.curves import StepCurve
from baton.protocol.kvlayout import KVLayout

_MS = 1e-3
_OPT = {"facebook/opt-13b": (40, 40, 13), "facebook/opt-66b": (64, 72, 66)}
"""Layers, heads of 128, billions of parameters."""


def from_distserve(path: Path, model: str, degree: int) -> Machine:
    """A fit of DistServe: ms = a + b tokens + c tokens^2, and a + b context + c batch. OPT on
    devices of 80 GB. Raises OSError, ValueError, KeyError."""
    fits: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    fit = fits[model][str(degree)]
    fixed, linear, square = fit["prefill"]
    base, context, decode = fit["decoding_smallbs"]
    layers, heads, billions = _OPT[model]
    layout = KVLayout(layers, heads, 128, 32, "float16")
    curve = StepCurve(
        base=min(base, fixed) * _MS,
        chunk=max(0.0, fixed - base) * _MS,
        token=linear * _MS,
        pair=2 * square * _MS,
        decode=decode * _MS,
        context=context * _MS,
        spread=SPREAD,
        steps=1000,
    )
    room = 0.9 * 80e9 * degree - 2e9 * billions
    return Machine(
        name=f"{model.rpartition('/')[2]}-tp{degree}",
        curve=curve,
        link=link_of(25e9 * degree),
        layout=layout,
        num_blocks=int(room / layout.block_bytes),
        limits=SchedulerLimits(
            max_model_len=32_768,
            max_running=fit["decoding_large_small_bs_threshold"],
            max_batch_tokens=2048,
            prefill_chunk=512,
        ),
    )

"""Machines to simulate: of a `baton profile` file, of published fits, and one made from a device's
figures, which is what benchmarks use unless told otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from baton.bench.simulator.machine import Machine
from baton.engine.limits import SchedulerLimits
from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.errors import ConfigError
from baton.protocol.kvlayout import KVLayout
from baton.protocol.profile import decode_profile

_MS = 1e-3
SPREAD = 0.05
"""Of steps, where a file does not say."""


def load_machine(text: str | None) -> Machine:
    """`None`: the made one. Else a file of `baton profile`, or a DistServe fit as
    `FILE:MODEL:TP`. Raises ConfigError, one line."""
    if text is None:
        return made()
    name, _, rest = text.partition(":")
    path = Path(name)
    try:
        if rest:
            model, _, degree = rest.rpartition(":")
            return from_distserve(path, model, int(degree))
        return from_profile(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{text} is no profile: {error}") from error


def made() -> Machine:
    """A model of 13 billion parameters in 16 bits (40 layers, hidden size 5120) on a device of 80
    GB, 2 TB/s and 312 TFLOP/s, of which 80 % and 55 % are reached; 25 GB/s between devices."""
    parameters, layers, hidden = 13e9, 40, 5120
    bandwidth, arithmetic = 0.8 * 2e12, 0.55 * 312e12
    layout = KVLayout(layers, 40, 128, 32, "bfloat16")
    token_bytes = layout.block_bytes / layout.block_size
    curve = StepCurve(
        base=2 * parameters / bandwidth + 2e-3,
        chunk=1e-3,
        token=2 * parameters / arithmetic,
        pair=4 * layers * hidden / arithmetic,
        decode=40e-6,
        context=token_bytes / bandwidth,
        spread=SPREAD,
        steps=1000,
    )
    return Machine(
        name="made-13b",
        curve=curve,
        link=LinkCurve(latency=0.5e-3, byte=1 / 25e9, spread=0.1, transfers=100),
        layout=layout,
        num_blocks=int(46e9 / layout.block_bytes),
        limits=SchedulerLimits(
            max_model_len=32_768, max_running=128, max_batch_tokens=2048, prefill_chunk=512
        ),
    )


def from_distserve(path: Path, model: str, degree: int) -> Machine:
    """A fit of DistServe: ms = a + b tokens + c tokens^2, and a + b context + c batch. OPT on
    devices of 80 GB. Raises OSError, ValueError, KeyError."""
    fits: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    fit = fits[model][str(degree)]
    fixed, linear, square = fit["prefill"]
    base, context, decode = fit["decoding_smallbs"]
    layers, heads, billions = {"facebook/opt-13b": (40, 40, 13), "facebook/opt-66b": (64, 72, 66)}[
        model
    ]
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
        link=LinkCurve(latency=0.5e-3, byte=1 / (25e9 * degree), spread=0.1, transfers=100),
        layout=layout,
        num_blocks=int(room / layout.block_bytes),
        limits=SchedulerLimits(
            max_model_len=32_768,
            max_running=fit["decoding_large_small_bs_threshold"],
            max_batch_tokens=2048,
            prefill_chunk=512,
        ),
    )


def from_profile(path: Path) -> Machine:
    """What `baton profile` measured. The pool and the link are those of a small machine. Raises
    OSError, ValueError."""
    profile = decode_profile(path.read_bytes())
    layout = KVLayout(30, 3, 64, profile.block_size, "bfloat16")
    return Machine(
        name=f"{profile.model}-{profile.device}",
        curve=profile.curve,
        link=LinkCurve(latency=1e-3, byte=1 / 2e9, spread=0.3, transfers=100),
        layout=layout,
        num_blocks=int(2e9 / layout.block_bytes),
        limits=SchedulerLimits(
            max_model_len=8192, max_running=64, max_batch_tokens=512, prefill_chunk=512
        ),
    )

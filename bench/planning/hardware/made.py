"""A machine made from round figures: what benchmarks of routing use unless told otherwise."""

from __future__ import annotations

from baton.bench.simulator.machine import Machine
from baton.engine.limits import SchedulerLimits
from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.kvlayout import KVLayout

SPREAD = 0.05
"""Of steps, where nothing says."""


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

"""What colocated workers with chunks of a fixed size attain, in closed form. Pure.

The planner's own mixed workers fill steps by the target; most others have a chunk of fixed size,
and where targets of the first token are tight that is the better colocated layout. So a border
that is drawn against the better of both needs both.

A worker gets L requests per second, of n chunks and O tokens each, in steps of s seconds. Each
step takes its base, what B sequences that decode add, and in L n s of the steps a chunk; and
B = L O s. That gives s = base / (1 - L (O d + n c)), with d for a sequence in a step and c for a
chunk. A prompt is served in n steps with a chunk; others wait behind it. How many chunks fall into
the life of an answer varies as their number does, prompt by prompt.
"""

from __future__ import annotations

import math

from baton.protocol.curves import StepCurve, attention_pairs
from baton.protocol.records import Targets
from baton.router.planner.queueing import normal_below, waiting


def attained(
    curve: StepCurve, workers: int, rate: float, prompt: int, output: int, chunk: int,
    targets: Targets,
) -> float:
    """Share of the requests that keep both targets; 0 beyond what the workers can do."""
    each = rate / workers
    chunks = math.ceil(prompt / chunk)
    piece = (
        curve.chunk
        + (curve.token * prompt + curve.pair * attention_pairs(prompt, 0)) / chunks
    )
    sequence = curve.decode + curve.context * (prompt + output / 2)
    left = 1.0 - each * (output * sequence + chunks * piece)
    if left <= 0:
        return 0.0
    step = curve.base / left
    beside = curve.base + each * output * step * sequence + piece
    service = chunks * beside
    waited = waiting(workers, rate, service, 0.0, 1.0)
    first = 1.0 if targets.ttft is None else waited.within(targets.ttft - service)
    if targets.itl is None or output < 2:
        return first
    # Prompts come by chance, each with all its chunks.
    prompts = each * output * step
    deviation = math.sqrt(prompts) * chunks * piece / output
    return first * normal_below(targets.itl, step, deviation)

"""Larger KV blocks for quick plans of long prompts: most of what such a prompt costs to simulate is
its blocks (named, indexed, evicted, told of one by one), not its steps.

What is served hardly depends on their size as long as a block is small beside a prompt and beside
what a step reads of one: memory and caches are only counted in larger units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msgspec.structs import replace as with_fields

from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.wishes import Wishes
from baton.protocol.curves import StepShape
from baton.router.planner.workload import Workload

MOST = 128
"""Tokens of a block."""
_OF_A_PROMPT, _OF_A_STEP = 32, 4
"""Blocks of a mean prompt, and of what a step may read within half of the ITL target, at least."""


def coarser(
    kinds: Sequence[WorkerKind], workload: Workload, wishes: Wishes
) -> tuple[tuple[WorkerKind, ...], str | None]:
    """All with blocks of the same larger size, and a line that says so; or as they are, and None,
    where that would be too coarse."""
    usual = kinds[0].machine.layout.block_size
    prompt = sum(item.prompt for item in workload.items) / len(workload.items)
    allowed = min(MOST, prompt / _OF_A_PROMPT, *(_step(k, wishes) / _OF_A_STEP for k in kinds))
    size = usual
    while 2 * size <= allowed:
        size *= 2
    if size == usual:
        return tuple(kinds), None
    return tuple(_with_blocks(kind, size) for kind in kinds), (
        f"prompts are long, so KV blocks of {size} tokens were simulated in place of {usual}: a "
        "quick plan counts memory and caches more coarsely"
    )


def _step(kind: WorkerKind, wishes: Wishes) -> int:
    machine = kind.machine
    return machine.curve.largest_chunk(
        wishes.itl / 2, StepShape(), limit=machine.limits.max_batch_tokens
    )


def _with_blocks(kind: WorkerKind, size: int) -> WorkerKind:
    """As many bytes of them."""
    machine = kind.machine
    blocks = machine.num_blocks * machine.layout.block_size // size
    layout = with_fields(machine.layout, block_size=size)
    return replace(kind, machine=replace(machine, layout=layout, num_blocks=blocks))

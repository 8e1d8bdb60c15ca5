"""Pools that are too small, and bytes that change on their way."""

from __future__ import annotations

from baton.bench.faults.ground import Ground
from baton.bench.faults.judge import Verdict
from baton.bench.faults.parts import BLOCK


def no_room(ground: Ground, name: str) -> Verdict:
    """The load on a cluster whose pools hold a part of it: it waits or recomputes."""
    verdict = Verdict(name)
    before = _preemptions(ground)
    with ground.disturbed(verdict, at=0.02) as (load, _):
        load.wait()
    verdict.notes["preemptions"] = _preemptions(ground) - before
    smallest = min(view["num_blocks"] for view in ground.parts.views().values())
    wanted = sum(len(ask.prompt) // BLOCK for ask in ground.asks) // len(ground.parts.workers)
    verdict.notes |= {"smallest_pool_blocks": smallest, "prompt_blocks_for_each": wanted}
    verdict.check(wanted > smallest, "the pool had room for everything")
    return ground.settle(verdict)


def corruption(ground: Ground, every: int) -> Verdict:
    """One byte of every so many messages with blocks is wrong, with checksums on."""
    verdict = Verdict(f"one corrupted byte in every {every}th message")
    ground.parts.switch.touch()
    with ground.disturbed(verdict, at=0.02) as (load, _):
        load.wait()
    ground.parts.switch.unlink()
    verdict.notes["detected"] = int(ground.parts.wait(
        lambda: ground.parts.total("baton_kv_transfer_failures_total", 'reason="corrupt"'),
        "a corrupt hand-off in the metrics", 5.0,
    ))
    return ground.settle(verdict)


def _preemptions(ground: Ground) -> int:
    return sum(int(view["load"]["preemptions"]) for view in ground.parts.views().values())

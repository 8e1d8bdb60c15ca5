"""Pools that are too small, and bytes that change on their way."""

from __future__ import annotations

from collections.abc import Sequence

from baton.bench.faults.ground import Ground
from baton.bench.faults.judge import Verdict
from baton.bench.faults.load import Seen
from baton.bench.faults.parts import BLOCK
from baton.bench.faults.stalls import longest_silence, stall_limit, turns_lost


def no_room(ground: Ground, name: str) -> Verdict:
    """The load on a cluster whose pools hold a part of it: it waits or recomputes."""
    verdict = Verdict(name)
    before = _preemptions(ground)
    with ground.disturbed(verdict, at=0.02) as (load, _):
        seen = load.wait()
    verdict.notes["preemptions"] = _preemptions(ground) - before
    _moves_on(ground, verdict, seen)
    smallest = min(view["num_blocks"] for view in ground.parts.views().values())
    at_once = ground.asks[: ground.concurrency]
    pairs = len(ground.parts.workers) // 2
    wanted = sum((len(ask.prompt) + ask.max_tokens) // BLOCK for ask in at_once) // pairs
    verdict.notes |= {"smallest_pool_blocks": smallest, "blocks_wanted_of_each": wanted}
    verdict.check(wanted > smallest, "the pool had room for everything")
    return ground.settle(verdict)


SLACK = 0.3
"""Seconds: all streams of a small model together are silent for as long as a busy machine wants
its cores for something else. A time-out is ten times as long."""


def _moves_on(ground: Ground, verdict: Verdict, seen: Sequence[Seen]) -> None:
    """Who waits for room gets it when somebody ends, in turn, and no time-out is what moves it on:
    while that ran, all would stand still."""
    views = ground.parts.views().values()
    smallest = min(len(ask.prompt) for ask in ground.asks) // BLOCK + 1
    at_once = sum(v["num_blocks"] // smallest for v in views if v["role"] != "prefill")
    lost = turns_lost(seen)
    if at_once < len(seen) and lost > at_once:
        # A client, or a router, that stood still sees the ends of many at once, in any order. Who
        # loses its turn to others loses it again.
        again = ground.load().wait()
        ground.oracle.judge(ground.parts.url, verdict, again)
        lost = min(lost, turns_lost(again))
    silence = longest_silence(seen)
    verdict.notes |= {"ended_during_longest_stall": lost, "room_at_once_for": at_once,
                      "longest_silence_of_all": round(silence, 3)}
    if at_once < len(seen):
        verdict.check(lost <= at_once, f"{lost} others took the turn of one that waited")
    verdict.check_time(
        "longest silence of all streams", silence,
        stall_limit(0.0, ground.longest, ground.rate) + ground.oracle.silence + SLACK,
    )


def corruption(ground: Ground, every: int) -> Verdict:
    """One byte of every so many messages with blocks is wrong, with checksums on."""
    verdict = Verdict(f"one corrupted byte in every {every}th message")
    ground.parts.switch.touch()
    with ground.disturbed(verdict, at=0.02) as (load, _):
        load.wait()
    ground.parts.switch.unlink()
    # Nobody has to be missed for it; but one that comes again finds others in the queue.
    ground.limit_stall(verdict, 0.0, ground.prompts + ground.longest)
    verdict.notes["detected"] = int(ground.parts.wait(
        lambda: ground.parts.total("baton_kv_transfer_failures_total", 'reason="corrupt"'),
        "a corrupt hand-off in the metrics", 20.0,
    ))
    return ground.settle(verdict)


def _preemptions(ground: Ground) -> int:
    return sum(int(view["load"]["preemptions"]) for view in ground.parts.views().values())

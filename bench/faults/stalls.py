"""How long streams stand still, and what that may cost. Pure.

| what happened | a stream stands still for at most |
|---|---|
| a death | detection, redispatch, 1.5 times the recomputation |
| a message lost or late | as long as after a death |
| a byte changed | redispatch, and 1.5 times the prompts that may be ahead of it in a queue |
| no room | its turn: no more others may end meanwhile than have room at once |

Where there is no room, some stream must get a token all the time too: what nothing but a time-out
moves on stands still until then.

Beside each: the longest gap of the same load undisturbed. Gaps in seconds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

from baton.bench.faults.load import Seen

DETECTION = 1.0
REDISPATCH = 0.1
RECOMPUTATION_FACTOR = 1.5
"""Seconds, seconds, and times the predicted recomputation."""


def longest_stall(seen: Iterable[Seen]) -> float:
    """Of any stream."""
    return max((stream.longest_gap[0] for stream in seen), default=0.0)


def stall_limit(detection: float, recomputed_tokens: float, rate: float) -> float:
    """`rate`: prompt tokens per second, measured in the same run."""
    return detection + REDISPATCH + RECOMPUTATION_FACTOR * recomputed_tokens / rate


def longest_silence(seen: Iterable[Seen]) -> float:
    """Between two tokens of any streams, as long as all of them together ran."""
    times = sorted(time for stream in seen for time in stream.times)
    return max((b - a for a, b in pairwise(times)), default=0.0)


def turns_lost(seen: Sequence[Seen]) -> int:
    """How many other streams ended during one's longest gap, at most."""
    ends = sorted(stream.ended for stream in seen)
    worst = 0
    for stream in seen:
        gap, began = stream.longest_gap
        worst = max(worst, bisect_left(ends, began + gap) - bisect_right(ends, began))
    return worst

"""What prompts that are yet to come lose by a decision: by queueing theory, from how busy prompts
have kept a pool of workers of late. Pure.

With Poisson arrivals, a share `p` of a worker's time taken by prompts of `s` seconds each:

    waiting          p^2 / (1 - p)                 prompts, on average (so seconds per second)
    waits beyond t   p exp(-(1 - p) t / s)         share of prompts

Both grow without bounds towards p = 1, where guesses are worth little; they end at MOST.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST = 0.95


@dataclass(slots=True)
class Pool:
    """Workers among which such prompts are divided."""

    pressure: float = 0.0
    """Share of their time that prompts took of late, on average."""
    work: float = 0.0
    """Seconds of a prompt, on average."""
    ttft: float | None = None
    """The tightest target that prompts come with, in seconds."""
    worth: float = 0.0
    """Seconds that one of these loses when it misses it."""
    work_price: float = 0.0
    """Seconds that those to come lose by another second of work."""

    def __post_init__(self) -> None:
        pressure = self.pressure = min(self.pressure, MOST)
        if pressure <= 0 or self.work <= 0:
            return
        free = 1 - pressure
        price = (1 - free * free) / (free * free)
        if self.ttft is not None:
            # One more prompt delays those that come until the queue has gone, by its work.
            reached = pressure / free
            later = self.late(pressure, self.work, self.work) - self.late(pressure, self.work)
            price += reached * later * self.worth / self.work
        self.work_price = price

    def slowing_price(self, share: float) -> float:
        """What those that come lose each second while all prompts take longer by this share."""
        before = self.pressure
        if before <= 0 or self.work <= 0 or share <= 0:
            return 0.0
        after = min(MOST, before * (1 + share))
        price = after * after / (1 - after) - before * before / (1 - before) + after - before
        if self.ttft is not None:
            late = self.late(after, self.work * (1 + share)) - self.late(before, self.work)
            price += before / self.work * late * self.worth
        return price

    def late(self, pressure: float, work: float, delay: float = 0.0) -> float:
        """Share of prompts that miss their target, when each is delayed by so much besides."""
        assert self.ttft is not None
        slack = max(0.0, self.ttft - work - delay)
        return pressure * math.exp(-(1 - pressure) * slack / work)


EMPTY = Pool()

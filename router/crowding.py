"""What another second of prompts costs those that are yet to come, from how busy prompts have kept
a pool of workers of late. Pure.

With Poisson arrivals at `k` workers, a share `p` of whose time is taken by prompts of `s` seconds
each, and which prompts can choose among (Sakasegawa's approximation, exact for one worker):

    waiting          p^r / (1 - p)                          prompts, on average
    waits beyond t   p^(r - 1) exp(-k (1 - p) t / s)        share of prompts
                     with r = sqrt(2 (k + 1))

So the more workers there are, the less anybody waits for them, until they are nearly full. Both
grow without bounds towards p = 1, where guesses are worth little; they end at MOST.
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
    workers: int = 1
    work_price: float = 0.0
    """Seconds that those to come lose by another second of work."""

    def __post_init__(self) -> None:
        pressure = self.pressure = min(self.pressure, MOST)
        if pressure <= 0 or self.work <= 0:
            return
        free, power = 1 - pressure, math.sqrt(2 * (self.workers + 1))
        grown = pressure**power
        price = (power * grown / pressure / free + grown / (free * free)) / self.workers
        if self.ttft is not None:
            # One more prompt delays those that come until the queue has gone, by its work.
            reached, delay = pressure / free, self.work / self.workers
            later = self.late(pressure, self.work, delay) - self.late(pressure, self.work)
            price += reached * later * self.worth / self.work
        self.work_price = price

    def slowing_price(self, share: float) -> float:
        """What those that come lose each second while all prompts of one worker take longer by
        this share."""
        before = self.pressure
        if before <= 0 or self.work <= 0 or share <= 0:
            return 0.0
        workers = self.workers
        after = min(MOST, before * (1 + share / workers))
        price = self.waiting(after) - self.waiting(before) + workers * (after - before)
        if self.ttft is not None:
            work = self.work * after / before
            late = self.late(after, work) - self.late(before, self.work)
            price += workers * before / self.work * late * self.worth
        return price

    def waiting(self, pressure: float) -> float:
        """Prompts, on average."""
        return float(pressure ** math.sqrt(2 * (self.workers + 1))) / (1 - pressure)

    def late(self, pressure: float, work: float, delay: float = 0.0) -> float:
        """Share of prompts that miss their target, when each is delayed by so much besides."""
        assert self.ttft is not None
        slack = max(0.0, self.ttft - work - delay)
        waits = float(pressure ** (math.sqrt(2 * (self.workers + 1)) - 1))
        return waits * math.exp(-self.workers * (1 - pressure) * slack / work)


EMPTY = Pool()

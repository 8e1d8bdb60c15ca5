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
from dataclasses import dataclass, field

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
    _power: float = field(init=False, default=0.0)
    _waiting: float = field(init=False, default=0.0)
    _late: float = field(init=False, default=0.0)
    """These two as things are: all that the pool is asked compares with them."""

    def __post_init__(self) -> None:
        workers, work = self.workers, self.work
        power = self._power = math.sqrt(2 * (workers + 1))
        pressure = self.pressure = min(self.pressure, MOST)
        if pressure <= 0 or work <= 0:
            return
        free, grown = 1 - pressure, float(pressure**power)
        self._waiting = grown / free
        price = (power * grown / pressure / free + grown / (free * free)) / workers
        if self.ttft is not None:
            # One more prompt delays those that come until the queue has gone, by its work.
            reached, delay = pressure / free, work / workers
            self._late = self._too_late(pressure, grown, work)
            later = self._too_late(pressure, grown, work, delay) - self._late
            price += reached * later * self.worth / work
        self.work_price = price

    def slowing_price(self, share: float) -> float:
        """What those that come lose each second while all prompts of one worker take longer by
        this share."""
        before, work, workers = self.pressure, self.work, self.workers
        if before <= 0 or work <= 0 or share <= 0:
            return 0.0
        after = before * (1 + share / workers)
        if after > MOST:
            after = MOST
        grown = float(after**self._power)
        price = grown / (1 - after) - self._waiting + workers * (after - before)
        if self.ttft is not None:
            late = self._too_late(after, grown, work * after / before) - self._late
            price += workers * before / work * late * self.worth
        return price

    def waiting(self, pressure: float) -> float:
        """Prompts, on average."""
        return float(pressure**self._power) / (1 - pressure)

    def _too_late(self, pressure: float, grown: float, work: float, delay: float = 0.0) -> float:
        """Share of prompts that miss their target, when each is delayed by so much besides.
        `grown`: the pressure to `_power`."""
        assert self.ttft is not None
        slack = self.ttft - work - delay
        if slack <= 0:
            return grown / pressure
        return grown / pressure * math.exp(-self.workers * (1 - pressure) * slack / work)


EMPTY = Pool()

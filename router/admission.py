"""Whether a request that has to wait is worth taking on. Pure: time is passed in.

    predicted in time (its target, with a margin)          taken
    late, but others leave room for it within patience     taken; in the queue it is behind all
                                                           that can still make it
    the same, of a lane whose targets nobody asked for     taken
    later than its lane's patience                         refused, at once

How fast the queue moves is what the workers' speeds say, until it has been seen to move (`Drain`):
that holds whatever is scarce, be it prefill, slots, blocks or intervals.

Late ones are served in the gaps that others leave. Near overload there are none: what arrives is
then all that the workers can do (`Offered`: prompts, and answers too), and late ones are refused,
however short the queue is. So the queue holds what can be served in time, and is empty soon after
a burst.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from baton.router.lanes import Lane, Lanes

IN_TIME = 0.9
"""Of the time to the target, what may be predicted for a request that counts as in time."""
NO_GAPS = 0.7
"""Share of the workers' time from which on others leave nothing for late ones. Not all of it, for
those who come in bursts meet the answers of late ones that are still being written."""
RETRY_AFTER = (1.0, 60.0)
MOST_MEMORY = 30.0
"""Seconds over which the work that arrives is averaged, at most; else a lane's patience."""


class Drain:
    """How fast the queue has moved: seconds of work sent from it, per second in which it was not
    empty."""

    LEAST, MOST = 5, 64
    """Requests that it is judged by."""
    PRIOR = 0.25
    """Seconds of seeing that count as much as what the speeds say. The first of a burst have
    nothing else to go by; of workers with too much to do speeds say too much."""
    FORGET = 1.0
    """Seconds without a queue, after which it begins anew."""

    def __init__(self) -> None:
        self._busy = 0.0
        """Seconds with a queue, so far."""
        self._busy_since: float | None = None
        self._idle_since = -math.inf
        self._sent: deque[tuple[float, float]] = deque(maxlen=self.MOST)

    def queue(self, waiting: bool, now: float) -> None:
        """To be told when it becomes empty, and when it is not any more."""
        if waiting and self._busy_since is None:
            if now - self._idle_since > self.FORGET:
                self._sent.clear()
            self._busy_since = now
        elif not waiting and self._busy_since is not None:
            self._busy += now - self._busy_since
            self._busy_since, self._idle_since = None, now

    @property
    def waiting(self) -> bool:
        return self._busy_since is not None

    def sent(self, work: float, now: float) -> None:
        """From the queue."""
        self._sent.append((self._clock(now), work))

    def rate(self, capacity: float | None, now: float) -> float | None:
        """`capacity`: what the workers' speeds say; it counts as much as so many seconds of
        seeing. None when too little is known."""
        work = seconds = 0.0
        if len(self._sent) > 1:
            seconds = self._clock(now) - self._sent[0][0]
            work = sum(work for _, work in self._sent) - self._sent[0][1]
        if capacity is not None:
            return (work + capacity * self.PRIOR) / (seconds + self.PRIOR)
        if len(self._sent) < self.LEAST or seconds <= 0:
            return None
        return work / seconds

    def _clock(self, now: float) -> float:
        return self._busy + (0.0 if self._busy_since is None else now - self._busy_since)


class Offered:
    """Work that arrives per second, averaged over `memory` seconds with an exponential weight."""

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._rate = 0.0
        self._at = 0.0

    def add(self, work: float, now: float) -> None:
        self._rate = self.rate(now) + work / self._memory
        self._at = now

    def rate(self, now: float) -> float:
        return self._rate * math.exp(-max(0.0, now - self._at) / self._memory)


@dataclass(frozen=True, slots=True)
class Prospect:
    """What is known of a request that would have to prospect. Seconds."""

    lane: Lane
    waited: float
    """Since its arrival."""
    ahead: float
    """Work that is sent before it if it can still make it."""
    ahead_late: float
    """And if it cannot."""
    share: float
    """Of the workers, for its lane, in (0, 1]."""


class Admission:
    def __init__(self, lanes: Lanes) -> None:
        self._drains = {lane.name: Drain() for lane in lanes}
        """As each lane sees the queue move while it waits itself. Of a lighter one something may
        wait for good, while heavier ones get all that they ask for."""
        self._offered = {
            lane.name: Offered(min(MOST_MEMORY, lane.patience)) for lane in lanes
        }
        self._whole = {
            lane.name: Offered(min(MOST_MEMORY, lane.patience)) for lane in lanes
        }
        """With what it decodes, of all workers: what is quickly read may be long in writing."""

    def waits(self, lane: str, waiting: bool, now: float) -> None:
        """To be told when something of this lane begins to wait, and when nothing does any more."""
        self._drains[lane].queue(waiting, now)

    def sent(self, work: float, now: float) -> None:
        """From the queue, whichever lane's."""
        for drain in self._drains.values():
            if drain.waiting:
                drain.sent(work, now)

    def arrived(self, lane: str, prompt: float, whole: float, now: float) -> None:
        """Whatever becomes of it. As of `Demand`."""
        self._offered[lane].add(prompt, now)
        self._whole[lane].add(whole, now)

    def refusal(
        self, prospect: Prospect, first_token: float | None, capacity: float | None, now: float
    ) -> float | None:
        """None: worth waiting. Otherwise the seconds after which another attempt may be.
        `first_token`: seconds until there would be one, by the workers' speeds, if nothing were
        ahead of it in the queue; `capacity`: seconds of work that they do in a second."""
        lane = prospect.lane
        rate = self._drains[lane.name].rate(capacity, now)
        if not rate:
            return None
        first = first_token or 0.0
        soonest = first + prospect.ahead / rate
        in_time = IN_TIME * (lane.ttft - prospect.waited)
        if soonest <= in_time:
            return None
        if not lane.firm and soonest <= lane.patience - prospect.waited:
            return None
        prompts, whole = self._offered[lane.name].rate(now) / rate, self._whole[lane.name].rate(now)
        taken = min(1.0, max(prompts, whole) / prospect.share)
        if taken < NO_GAPS:
            late = (first + prospect.ahead_late / rate) / (1 - taken)
            if late <= lane.patience - prospect.waited:
                return None
        low, high = RETRY_AFTER
        return min(high, max(low, (soonest - max(0.0, in_time)) / max(0.1, 1 - taken)))

"""A workload from requests as they come, and whether it has changed.

    arrive --> sample of the present regime --estimate--> Workload, and how far it may be off
                  ^
    a change drops all that came before it

All requests are counted, by the second; of busy routers only every second, fourth, ... is looked at
closer. Every second the last few seconds are compared with what came before: how much there is to
read, how often requests come, how long answers get. Only what chance would hardly ever make
is a change, so a constant load keeps its whole sample, and after a change nothing old blurs the
picture. Pure: times are given.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from baton.router.planner.lifetimes import Life, completed, ended_differently
from baton.router.planner.workload import Item, Workload

WINDOW = 120.0
"""Seconds that are looked back at most."""
SAMPLE = 400
"""Requests that are looked at closer at most."""
FRESH = 256
"""Of the latest requests so many are looked at, whatever the sample takes of them."""
LOOK_BACK = (3.0, 5.0, 8.0, 12.0, 20.0)
"""Seconds ago at which a change may have been."""
SURE = 4.5
"""Standard deviations that make a change."""
FEWEST = 12
"""Requests on either side of a change, to call it one."""
OUTPUT_GUESS = 128.0
COLD = 0.5
"""Relative error of how much there is to read, while nobody knows what caches will find of it."""
_CLIP = 4.0
"""Of the mean, that one prompt counts for at most in telling a change."""


@dataclass(slots=True, eq=False)
class Seen:
    """One request."""

    at: float
    prompt: int
    most: int
    """Output tokens at most."""
    ttft: float
    itl: float
    produced: Callable[[], int]
    key: Hashable = None
    cached: int | None = None
    output: int | None = None
    """None while it runs."""
    sampled: bool = True

    @property
    def life(self) -> Life:
        return (self.produced(), False) if self.output is None else (self.output, True)


@dataclass(slots=True)
class Second:
    """What came within one second."""

    at: float
    """Its beginning."""
    count: int = 0
    tokens: float = 0.0
    """Of all prompts."""
    squares: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    workload: Workload
    seconds: float
    """That it was seen for."""
    count: int
    prefill_error: float
    """Relative standard error of the work that prompts are, per second."""
    decode_error: float


@dataclass
class Observation:
    """All requests of a router. What it keeps is bounded."""

    _seconds: deque[Second] = field(default_factory=deque)
    _sample: deque[Seen] = field(default_factory=deque)
    _fresh: deque[Seen] = field(default_factory=deque)
    """All of the last seconds: after a change there is nothing else to go by."""
    _running: dict[Hashable, Seen] = field(default_factory=dict)
    _number: int = 0
    _stride: int = 1
    """Of so many requests one is in the sample."""
    _began: float | None = None
    """Of the present regime."""
    _warm: bool = False
    """What caches find has been seen for a while, or was before the last change."""
    _output: float = OUTPUT_GUESS
    """Mean length of answers, as last estimated."""
    _size: float = 0.0
    """Mean length of prompts before the present regime or within it."""

    def arrived(
        self,
        key: Hashable,
        now: float,
        prompt: int,
        most: int,
        ttft: float,
        itl: float,
        produced: Callable[[], int],
    ) -> None:
        """`produced` gives its output tokens so far."""
        if self._began is None:
            self._began = now
        if not self._seconds or now >= self._seconds[-1].at + 1.0:
            self._forget(now)  # nobody may ever ask: a router that does not lead
            self._seconds.append(Second(float(math.floor(now))))
        second = self._seconds[-1]
        # One giant is no trend.
        size = min(float(prompt), _CLIP * self._size) if self._size else float(prompt)
        self._size += (prompt - self._size) * (0.01 if self._size else 1.0)
        second.count += 1
        second.tokens += size
        second.squares += size * size
        self._number += 1
        request = Seen(now, prompt, most, ttft, itl, produced, key)
        request.sampled = self._number % self._stride == 0
        self._running[key] = request
        self._fresh.append(request)
        if request.sampled:
            self._sample.append(request)
            if len(self._sample) > SAMPLE:
                self._thin()
        while len(self._fresh) > FRESH or self._fresh[0].at < now - LOOK_BACK[-1]:
            old = self._fresh.popleft()
            if not old.sampled:
                self._running.pop(old.key, None)

    def ended(self, key: Hashable, output: int, cached: int | None) -> None:
        """Idempotent. `cached`: prompt tokens that were not computed, if that is known."""
        request = self._running.pop(key, None)
        if request is not None:
            request.output = output
            request.cached = cached

    def refused(self, key: Hashable) -> None:
        """It came, and was not let in: of its answer nothing can be learned."""
        request = self._running.pop(key, None)
        if request is not None:
            request.produced = lambda: 0

    def age(self, now: float) -> float:
        """Seconds for which the workload has been what it is; infinite before the first request."""
        return math.inf if self._began is None else now - self._began

    # -- what is known of it -------------------------------------------------------------------

    def changed(self, now: float) -> bool:
        """Whether it is another workload than before, of which all is forgotten then."""
        self._forget(now)
        best, since = SURE, None
        for back in LOOK_BACK:
            start = now - back
            if self._began is None or start - self._began < max(back, 5.0):
                break
            sure = self._difference(start, now)
            if sure > best:
                best, since = sure, start
        if since is None:
            return False
        self._output = self._outputs()[1]
        since = max(since, self._fresh[0].at if self._fresh else since)
        self._sample = deque(seen for seen in self._fresh if seen.at >= since)
        for seen in self._sample:
            seen.sampled = True
        while self._seconds and self._seconds[0].at < since:
            self._seconds.popleft()
        self._began = since
        self._stride = 1
        return True

    def estimate(self, now: float) -> Estimate | None:
        """None while next to nothing is known."""
        self._forget(now)
        requests = list(self._sample)
        count = sum(second.count for second in self._seconds)
        if self._began is None or len(requests) < FEWEST:
            return None
        seconds = min(self.age(now), WINDOW)
        if seconds < LOOK_BACK[0]:
            return None
        outputs, _, extrapolated = self._outputs()
        cached = _would_find(requests)
        items = tuple(
            Item(request.prompt, found, max(1, round(output)), request.ttft, request.itl)
            for request, found, output in zip(requests, cached, outputs, strict=True)
        )
        bursts = self._dispersion()
        ended = sum(request.output is not None for request in requests)
        coming = bursts / count
        self._warm = self._warm or _known(requests[len(requests) // 2 :]) >= FEWEST
        prompts = _scv([item.prompt - item.cached for item in items])
        answers = _scv([item.output for item in items])
        return Estimate(
            workload=Workload(count / seconds, items, bursts),
            seconds=seconds,
            count=count,
            prefill_error=math.sqrt(
                coming + prompts / len(items) + (0.0 if self._warm else COLD**2)
            ),
            decode_error=math.sqrt(
                coming + max(answers, 0.25) / (ended + 1) + (0.5 * extrapolated) ** 2
            ),
        )

    # -- inside --------------------------------------------------------------------------------

    def _forget(self, now: float) -> None:
        while self._sample and self._sample[0].at < now - WINDOW:
            self._sample.popleft()
        while self._seconds and self._seconds[0].at < now - WINDOW:
            self._seconds.popleft()
        if self._stride > 1 and len(self._sample) < SAMPLE // 8:
            self._stride //= 2  # it was busier: now more of them can be looked at

    def _thin(self) -> None:
        """Every other one goes, and of those to come only half as many are taken."""
        self._stride *= 2
        kept: deque[Seen] = deque()
        for place, seen in enumerate(self._sample):
            seen.sampled = place % 2 == 0
            if seen.sampled:
                kept.append(seen)
        self._sample = kept
        fresh = self._fresh[0].at if self._fresh else math.inf
        for key, seen in list(self._running.items()):
            if not seen.sampled and seen.at < fresh:
                del self._running[key]

    def _outputs(self) -> tuple[list[float], float, float]:
        """(of each in the sample, their mean, the share of it that is extrapolated)."""
        requests = list(self._sample)
        outputs = [0.0] * len(requests)
        beyond = 0.0
        for places in _by_prompt(requests):
            lengths, extrapolated = completed([requests[i].life for i in places], self._output)
            for place, length in zip(places, lengths, strict=True):
                outputs[place] = min(requests[place].most, length)
            beyond += extrapolated * sum(lengths)
        total = sum(outputs)
        if not requests:
            return outputs, self._output, 0.0
        return outputs, total / len(requests), beyond / max(1.0, total)

    def _dispersion(self) -> float:
        """Variance over mean of the requests per second: what a queue feels of bursts. At least
        a quarter: a few even seconds promise nothing."""
        if self._began is None or len(self._seconds) < 10:
            return 1.0
        # The first and the last one are no whole seconds.
        counts = [second.count for second in self._seconds][1:-1]
        span = self._seconds[-1].at - self._seconds[0].at - 1.0
        counts += [0] * max(0, round(span) - len(counts))  # seconds in which none came
        mean = sum(counts) / len(counts)
        variance = sum((count - mean) ** 2 for count in counts) / len(counts)
        return max(0.25, variance / mean)

    def _difference(self, start: float, now: float) -> float:
        """In standard deviations, of whatever differs most before and after `start`."""
        before = [second for second in self._seconds if second.at < start]
        recent = [second for second in self._seconds if second.at >= start]
        if sum(second.count for second in before) < FEWEST:
            return 0.0
        assert self._began is not None
        since = max(before[0].at, self._began)
        # The second that `start` lies in belongs to what was before.
        edge = max(start, before[-1].at + 1.0)
        length, seconds = edge - since, max(now - edge, 1e-3)
        bursts = max(1.0, self._dispersion())
        arrivals = _rates_differ(
            _Sum(sum(s.count for s in before), sum(s.count for s in before), length),
            _Sum(sum(s.count for s in recent), sum(s.count for s in recent), seconds),
            bursts,
        )
        reading = _rates_differ(
            _Sum(sum(s.tokens for s in before), sum(s.squares for s in before), length),
            _Sum(sum(s.tokens for s in recent), sum(s.squares for s in recent), seconds),
            bursts,
        )
        most = max(abs(arrivals), abs(reading))
        recent_ones = self._fresh if self._fresh and self._fresh[0].at <= start else self._sample
        new = [seen.life for seen in recent_ones if seen.at >= start]
        old = [seen.life for seen in self._sample if seen.at < start]
        if len(new) >= FEWEST and len(old) >= FEWEST:
            most = max(most, abs(ended_differently(new, old)))
        return most


class _Sum(NamedTuple):
    total: float
    squares: float
    seconds: float


def _rates_differ(before: _Sum, recent: _Sum, bursts: float) -> float:
    """What came per second, of compound Poisson arrivals that come in bursts."""
    spread = (before.squares / before.seconds + recent.squares / recent.seconds) / 2
    variance = bursts * spread * (1 / before.seconds + 1 / recent.seconds)
    gap = recent.total / recent.seconds - before.total / before.seconds
    return gap / math.sqrt(variance) if variance > 0 else 0.0


def _by_prompt(requests: Sequence[Seen]) -> list[list[int]]:
    """Places of short and of long prompts, where enough of either have ended to tell how long
    answers to them get: who asks with a file wants a line, who asks with a line wants a page."""
    order = sorted(range(len(requests)), key=lambda place: requests[place].prompt)
    half = len(order) // 2
    parts = [order[:half], order[half:]]
    if all(sum(requests[i].output is not None for i in part) >= FEWEST for part in parts):
        return parts
    return [order]


def _would_find(requests: Sequence[Seen]) -> list[int]:
    """Prompt tokens of each that need not be computed, if it came now. Caches fill: what came
    early in a regime found less than what comes next."""
    half = len(requests) // 2
    early, late = _missed(requests[:half]), _missed(requests[half:])
    usual = _missed(requests)
    found = []
    for place, request in enumerate(requests):
        if request.cached is None:
            missing = (usual if late is None else late) or 0.0
            missing = request.prompt * (1.0 if usual is None and late is None else missing)
        else:
            missing = float(request.prompt - request.cached)
            if place < half and early and late is not None:
                missing *= late / early
        found.append(request.prompt - max(1, min(request.prompt, round(missing))))
    return found


def _known(requests: Sequence[Seen]) -> int:
    """Of how many it is known what caches found."""
    return sum(request.cached is not None for request in requests)


def _missed(requests: Sequence[Seen]) -> float | None:
    """Share of prompt tokens that had to be computed. None while too few tell."""
    known = [request for request in requests if request.cached is not None]
    if len(known) < FEWEST:
        return None
    prompts = sum(request.prompt for request in known)
    return 1.0 - sum(request.cached or 0 for request in known) / prompts


def _scv(values: Sequence[int]) -> float:
    mean = sum(values) / len(values)
    if mean <= 0:
        return 0.0
    return sum((value - mean) ** 2 for value in values) / len(values) / mean**2

"""The loads that a plan is made for: lengths and a rate, a named workload, or a trace. Each gives
the same requests for the same seed, to the closed forms as a sample, to the simulator as arrivals.

They are values that can be sent to other processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, pairwise
from typing import Protocol

from baton.bench.planning.caching import EndlessCache
from baton.bench.workloads.arrival import Arrival
from baton.bench.workloads.arrivals import Fit, arrivals
from baton.bench.workloads.lengths import Lengths
from baton.bench.workloads.named import WORKLOADS
from baton.bench.workloads.traces import Traced, replay
from baton.protocol.records import Targets
from baton.router.planner.workload import Item, Workload

SAMPLE = 400
"""Requests that closed forms are fed with."""
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Of the trace, from one seed's beginning to the next one's: any few seeds in a row are as far from
each other as can be, and no two begin at the same place."""


class Load(Protocol):
    """What comes. `rate`: requests per second of its own, None where it has none."""

    @property
    def name(self) -> str: ...

    @property
    def rate(self) -> float | None: ...

    @property
    def sessions(self) -> bool:
        """Later requests depend on earlier ones, so a run needs longer to be as it will be."""

    def arrivals(
        self, rate: float, seconds: float, seed: int, targets: Targets
    ) -> Iterator[Arrival]:
        """Of the first `seconds` seconds, at `rate` per second on average."""

    def sample(self, targets: Targets) -> Workload:
        """At its own rate, or one per second."""


@dataclass(frozen=True)
class Stated:
    """Requests of about one size, some of whose tokens are shared: those that `baton bench serve`
    would send."""

    lengths: Lengths
    rate: float | None = None
    variation: float = 1.0
    """Standard deviation of intervals over their mean; 1 is Poisson."""
    longest: int = 1 << 30
    """Tokens of prompt and output."""

    @property
    def name(self) -> str:
        return f"{self.lengths.prompt}/{self.lengths.output}"

    @property
    def sessions(self) -> bool:
        return self.lengths.turns > 1

    def arrivals(
        self, rate: float, seconds: float, seed: int, targets: Targets
    ) -> Iterator[Arrival]:
        parts = self.lengths.workload().parts(rate, seconds, variation=self.variation)
        most = self.lengths.longest_output
        fit = Fit(longest=self.longest - most, max_tokens=most)
        return arrivals(parts, seed, lambda kind: targets, fit)

    def sample(self, targets: Targets) -> Workload:
        lengths = self.lengths
        count = SAMPLE if lengths.spread or lengths.output_spread or lengths.turns > 1 else 1
        even = replace(self, variation=1.0)
        stream = islice(even.arrivals(SAMPLE / 100.0, 200.0, 0, targets), count)
        shared = round(lengths.shared * lengths.prompt)
        items = [
            Item(len(arrival.prompt()) // 4, shared, arrival.length, *_wanted(targets))
            for arrival in stream
        ]
        return Workload(self.rate or 1.0, tuple(items), max(1e-3, self.variation**2))


@dataclass(frozen=True)
class Named:
    """One of `baton.bench.workloads`."""

    workload: str
    rate: float | None = None
    variation: float | None = None
    """In place of its own."""
    longest: int = 1 << 30
    lengths: float = 1.0
    """Times as long as they are."""

    @property
    def name(self) -> str:
        return self.workload + (f" x {self.lengths:g}" if self.lengths != 1.0 else "")

    @property
    def sessions(self) -> bool:
        return any(kind.turns > 1 for kind in WORKLOADS[self.workload].kinds)

    def arrivals(
        self, rate: float, seconds: float, seed: int, targets: Targets
    ) -> Iterator[Arrival]:
        what = WORKLOADS[self.workload]
        parts = what.parts(rate, seconds, variation=self.variation)
        usual = Fit()
        fit = Fit(longest=min(usual.longest, self.longest - usual.max_tokens),
                  lengths=self.lengths)
        return arrivals(parts, seed, lambda kind: targets, fit)

    def sample(self, targets: Targets) -> Workload:
        what = WORKLOADS[self.workload]
        variations = [
            phase.variation if self.variation is None else self.variation
            for phase in what.phases
        ]
        stream = list(self.arrivals(SAMPLE / 100.0, 200.0, 0, targets))
        items = _items(stream, targets)
        return Workload(
            self.rate or 1.0, tuple(items[len(items) // 2 :] or items), max(variations) ** 2
        )


@dataclass(frozen=True)
class Trace:
    """Requests that were. A rate other than theirs makes time run faster or slower."""

    name: str
    requests: tuple[Traced, ...]
    longest: int = 1 << 30
    """Tokens of prompt and output; longer prompts are left out."""
    max_tokens: int = 4096
    sessions: bool = True

    @cached_property
    def _kept(self) -> tuple[Traced, ...]:
        return tuple(t for t in self.requests if t.prompt + t.output < self.longest)

    @property
    def left_out(self) -> int:
        """Requests that are longer than the model allows."""
        return len(self.requests) - len(self._kept)

    @property
    def seconds(self) -> float:
        return max(1e-3, self.requests[-1].at - self.requests[0].at)

    @property
    def rate(self) -> float:
        return max(1, len(self._kept) - 1) / self.seconds

    def arrivals(
        self, rate: float, seconds: float, seed: int, targets: Targets
    ) -> Iterator[Arrival]:
        """Each seed begins at another place of it, and after its end comes its beginning."""
        speed = rate / self.rate
        first = int(len(self._kept) * _beginning(seed))
        turned: list[Traced] = []
        start = self._kept[first].at
        wanted, cycle = seconds * speed, 0.0
        place = first
        while (at := self._kept[place].at + cycle - start) < wanted:
            was = self._kept[place]
            # Nobody asks all of it again: what comes once more has other prompts.
            again = len(turned) // len(self._kept)
            parts = was.parts if not again else tuple(
                (f"{name} again {again}", tokens) for name, tokens in was.parts
            )
            turned.append(Traced(at, was.prompt, was.output, parts))
            place += 1
            if place == len(self._kept):
                place, cycle = 0, cycle + self.seconds + 1 / self.rate
        return replay(
            turned, speed=speed, longest=self.longest, max_tokens=self.max_tokens, targets=targets
        )

    def unlike(self, seeds: Sequence[int], requests: int) -> float:
        """As how many seeds that have no request in common these are, of runs of so many requests.
        Below 1 where one run alone has all of them more than once."""
        each = requests / len(self._kept)
        if each >= 1 or not seeds:
            return 1 / each if each else 0.0
        begin = sorted(_beginning(seed) for seed in seeds)
        gaps = [b - a for a, b in pairwise([*begin, begin[0] + 1])]
        return sum(min(gap, each) for gap in gaps) / each

    def sample(self, targets: Targets) -> Workload:
        seen: set[str] = set()
        items = []
        for traced in self._kept:
            cached, fresh = 0, False
            for name, tokens in traced.parts:
                if not fresh and name in seen:
                    cached += tokens
                else:
                    fresh = True
                    seen.add(name)
            items.append(Item(
                traced.prompt, min(cached, traced.prompt - 1), min(traced.output, self.max_tokens),
                *_wanted(targets),
            ))
        step = max(1, len(items) // SAMPLE)
        return Workload(
            self.rate, tuple(items[len(items) % step :: step]),
            dispersion([traced.at for traced in self._kept]),
        )


def dispersion(times: Sequence[float]) -> float:
    """Variance over mean of how many come in a stretch that ten are expected in: what a queue
    feels of bursts, 1 of Poisson arrivals. At least a quarter."""
    span = times[-1] - times[0] if times else 0.0
    bins = len(times) // 10
    if bins < 10 or span <= 0:
        return 1.0
    counts = [0] * bins
    for at in times:
        counts[min(bins - 1, int((at - times[0]) / span * bins))] += 1
    mean = sum(counts) / bins
    return max(0.25, sum((count - mean) ** 2 for count in counts) / bins / mean)


# -- inside ----------------------------------------------------------------------------------


def _beginning(seed: int) -> float:
    """Of a trace, from 0 to 1."""
    return (seed * _GOLDEN) % 1.0


def _wanted(targets: Targets) -> tuple[float, float]:
    return (
        math.inf if targets.ttft is None else targets.ttft,
        math.inf if targets.itl is None else targets.itl,
    )


def _items(stream: Sequence[Arrival], targets: Targets) -> list[Item]:
    cache = EndlessCache()
    items = []
    for arrival in stream:
        prompt = arrival.prompt()
        found = cache.add(prompt)
        items.append(Item(
            len(prompt) // 4, min(found, len(prompt) // 4 - 1), arrival.length,
            *_wanted(targets),
        ))
    return items

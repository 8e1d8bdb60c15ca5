"""What arrives: how often, how evenly, and requests as they are.

A sample of requests keeps the joint distribution of lengths: prompts that are long and answers
that are short come together, and so do their targets. For planning it is condensed into a few
bins, whose work is linear in a curve's coefficients; so a sample is condensed once and priced for
every kind of worker. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from baton.protocol.curves import StepCurve, attention_pairs

BINS = 12
"""Of each class."""
CHUNK = 512
"""Tokens of one prompt that a worker computes in a step, unless it says otherwise."""


class Item(NamedTuple):
    """One request. Targets in seconds, infinite where there is none."""

    prompt: int
    cached: int
    """Of `prompt`, tokens that need not be computed."""
    output: int
    ttft: float = math.inf
    itl: float = math.inf

    @property
    def gaps(self) -> int:
        """Tokens after the first."""
        return max(0, self.output - 1)


class Bin(NamedTuple):
    """Requests with prompts of about one size."""

    weight: float
    """Share of all requests."""
    tokens: float
    """To be computed, on average."""
    pairs: float
    sizes: tuple[int, ...]
    """Tokens to be computed, of each, in ascending order."""

    def chunks(self, most: int) -> float:
        """Steps that a prompt needs, on average, with `most` tokens in each."""
        first, last = (max(1, -(-size // most)) for size in (self.sizes[0], self.sizes[-1]))
        if first == last:
            return float(first)
        return sum(max(1, -(-size // most)) for size in self.sizes) / len(self.sizes)

    def work(self, curve: StepCurve, chunks: float) -> float:
        """Seconds of its prompt in so many steps, without what every step costs."""
        return curve.chunk * chunks + curve.token * self.tokens + curve.pair * self.pairs


class Class(NamedTuple):
    """Requests with the same targets."""

    ttft: float
    itl: float
    weight: float
    streaming: float
    """Of `weight`, those with more than one token."""
    bins: tuple[Bin, ...]


class Handed(NamedTuple):
    """Of requests that are decoded elsewhere than they are read: what their decode worker has
    cached does not travel; what is cached at all is taken to be there."""

    share: float
    """Of all requests: those with more than one token."""
    tokens: float
    """That travel of each, on average."""
    variation: float
    """Squared coefficient of it."""


@dataclass(frozen=True)
class Workload:
    """`rate`: requests per second. `burstiness`: squared coefficient of variation of the times
    between arrivals; 1 for Poisson. `items`: a sample, each as likely as any other."""

    rate: float
    items: tuple[Item, ...]
    burstiness: float = 1.0

    @cached_property
    def classes(self) -> tuple[Class, ...]:
        """The most urgent first."""
        by_targets: dict[tuple[float, float], list[Item]] = {}
        for item in self.items:
            by_targets.setdefault((item.ttft, item.itl), []).append(item)
        total = max(1, len(self.items))
        return tuple(
            Class(
                ttft,
                itl,
                len(items) / total,
                sum(item.gaps > 0 for item in items) / total,
                _binned(items, total),
            )
            for (ttft, itl), items in sorted(by_targets.items())
        )

    @cached_property
    def itl(self) -> float:
        """The tightest, which every step has to keep that holds such a request."""
        return min((kind.itl for kind in self.classes if kind.streaming > 0), default=math.inf)

    @cached_property
    def tokens(self) -> float:
        """Prompt tokens to compute, of a mean request."""
        return self._mean(item.prompt - item.cached for item in self.items)

    @cached_property
    def gaps(self) -> float:
        """Tokens after the first, of a mean request."""
        return self._mean(item.gaps for item in self.items)

    @cached_property
    def context(self) -> float:
        """Tokens that a decoding sequence attends to, as a step meets it."""
        steps = sum(item.gaps for item in self.items)
        if not steps:
            return 0.0
        return sum(item.gaps * (item.prompt + item.output / 2) for item in self.items) / steps

    @cached_property
    def handed(self) -> Handed:
        """What a hand-off moves."""
        sizes = [item.prompt - item.cached for item in self.items if item.gaps > 0]
        if not sizes:
            return Handed(0.0, 0.0, 0.0)
        mean = sum(sizes) / len(sizes)
        variance = sum((size - mean) ** 2 for size in sizes) / len(sizes)
        return Handed(len(sizes) / len(self.items), mean, variance / mean**2 if mean else 0.0)

    def scaled(self, *, rate: float = 1.0, prompts: float = 1.0, outputs: float = 1.0) -> Workload:
        """So many times as many requests, with so many times as long prompts and outputs."""
        if prompts == outputs == 1.0:
            changed = replace(self, rate=self.rate * rate)
            for name in ("classes", "itl", "tokens", "gaps", "context", "handed"):
                if name in self.__dict__:
                    changed.__dict__[name] = self.__dict__[name]
            return changed
        return replace(
            self,
            rate=self.rate * rate,
            items=tuple(
                item._replace(
                    prompt=item.cached + max(1, round((item.prompt - item.cached) * prompts)),
                    output=1 + round(item.gaps * outputs),
                )
                for item in self.items
            ),
        )

    def _mean(self, values: Iterable[float]) -> float:
        return sum(values) / max(1, len(self.items))


def burstiness(gaps: Sequence[float]) -> float:
    """Of times between arrivals; 1 (Poisson) while there are too few to tell, and never below a
    quarter: a few even arrivals promise nothing."""
    if len(gaps) < 8:
        return 1.0
    mean = sum(gaps) / len(gaps)
    if mean <= 0:
        return 1.0
    variance = sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
    return max(0.25, variance / mean**2)


def _binned(items: list[Item], total: int) -> tuple[Bin, ...]:
    """By what is to be computed, in parts of about equal size."""
    ordered = sorted((max(0, item.prompt - item.cached), item.cached) for item in items)
    count = min(BINS, len(ordered))
    bins = []
    for place in range(count):
        part = ordered[place * len(ordered) // count : (place + 1) * len(ordered) // count]
        size = len(part)
        bins.append(Bin(
            size / total,
            sum(tokens for tokens, _ in part) / size,
            sum(attention_pairs(tokens, cached) for tokens, cached in part) / size,
            tuple(tokens for tokens, _ in part),
        ))
    return tuple(bins)

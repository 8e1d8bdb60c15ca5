"""What became of requests, and the figures that are made of it. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from baton.bench.quantiles import quantile, quantile_of_counts
from baton.bench.workloads.arrival import NO_TARGETS
from baton.protocol.records import Targets

_BINS = 40
"""Bins of the histogram of gaps per factor of e."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, from its client's side. Times in seconds."""

    kind: str
    lane: str
    at: float
    """When it arrived, since the start of the run."""
    prompt: int
    """Tokens."""
    end: str
    """A finish reason, or the code of an error."""
    tokens: int = 0
    ttft: float | None = None
    last: float | None = None
    """From arrival to the last token."""
    longest_gap: float = 0.0
    cached: int = 0
    """Prompt tokens found in a cache, at the first attempt that told."""
    targets: Targets = NO_TARGETS

    @property
    def served(self) -> bool:
        return self.end in ("stop", "length")

    @property
    def itl(self) -> float | None:
        """The mean over the request; None with fewer than two tokens."""
        if self.ttft is None or self.last is None or self.tokens < 2:
            return None
        return (self.last - self.ttft) / (self.tokens - 1)

    @property
    def attained(self) -> bool:
        """Served within its targets. A refusal is a miss."""
        if not self.served or self.ttft is None:
            return False
        targets, itl = self.targets, self.itl
        in_time = targets.ttft is None or self.ttft <= targets.ttft
        return in_time and (targets.itl is None or itl is None or itl <= targets.itl)


@dataclass(slots=True)
class Gaps:
    """Times between tokens, over all requests, within 2.5 %."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float, times: int = 1) -> None:
        self.counts[math.floor(math.log(seconds if seconds > 1e-6 else 1e-6) * _BINS)] += times

    def quantile(self, share: float) -> float | None:
        """Of nothing None."""
        places = sorted(self.counts)
        middles = [math.exp((place + 0.5) / _BINS) for place in places]
        return quantile_of_counts(middles, [self.counts[place] for place in places], share)


def attainment(outcomes: Sequence[Outcome]) -> float:
    """The share that attained; 1 of nothing."""
    return sum(o.attained for o in outcomes) / len(outcomes) if outcomes else 1.0


def window(outcomes: Iterable[Outcome], start: float, end: float) -> list[Outcome]:
    """Those that arrived within [start, end)."""
    return [o for o in outcomes if start <= o.at < end]


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """`seconds`: for how long they arrived. Times in milliseconds."""
    served = [o for o in outcomes if o.served]
    ttft = [o.ttft for o in outcomes if o.ttft is not None]
    itl = [value for o in served if (value := o.itl) is not None]
    prompts = sum(o.prompt for o in served)

    def ms(values: list[float], share: float) -> float | None:
        value = quantile(values, share)
        return None if value is None else round(value * 1e3, 2)

    return {
        "requests": len(outcomes),
        "goodput_per_s": round(sum(o.attained for o in outcomes) / seconds, 4),
        "attainment": round(attainment(outcomes), 4),
        "served": round(len(served) / len(outcomes), 4) if outcomes else 1.0,
        "ends": dict(sorted(Counter(o.end for o in outcomes).items())),
        "ttft_ms": {"mean": round(1e3 * sum(ttft) / len(ttft), 2) if ttft else None,
                    "p50": ms(ttft, 0.5), "p99": ms(ttft, 0.99)},
        "itl_ms": {"p50": ms(itl, 0.5), "p99": ms(itl, 0.99)},
        "hit_rate": round(sum(o.cached for o in served) / prompts, 4) if prompts else 0.0,
        "output_tokens_per_s": round(sum(o.tokens for o in served) / seconds, 2),
    }

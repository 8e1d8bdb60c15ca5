"""Where the time of requests went, and why one layout's is longer than another's. Pure.

Of the first token, by the router's account of each request:

    router    from its arrival until it was sent to a worker
    queue     at the worker, until its first step
    prefill   from there to the first token
    rest      tokens, HTTP, records between processes

Of those that follow, by the client and the workers' histograms: a *plain* step has decodes alone;
*stretched* is the part of the time between tokens by which gaps exceed the plain gap, which is
their median. What a prompt in a step adds is in there; so is a step that waits for a core.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from baton.bench.quantiles import quantile
from baton.router.account import Account

FIRST_TOKEN = ("router", "queue", "prefill", "rest")
_WORDS = {
    "router": "waiting in the router",
    "queue": "waiting at the worker",
    "prefill": "computing the prompt",
    "rest": "on the way",
}
_SMALL_MS = 2.0
"""A difference below this is not worth a word."""
_TOLERATED = 1.2
"""Gaps up to so many times the median are plain."""


@dataclass(frozen=True, slots=True)
class Phases:
    """Means over the requests of a run; milliseconds."""

    ttft: dict[str, float]
    """By FIRST_TOKEN; empty where the server tells nothing."""
    gap: float
    """Mean time between tokens."""
    plain: float
    """Median time between tokens."""
    stretched: float
    """0 to 1: part of the time between tokens."""
    handed_over: float = 0.0
    """Share of requests that one worker read and another answered."""

    def to_dict(self) -> dict[str, object]:
        return {
            "ttft_ms": {name: round(ms, 2) for name, ms in self.ttft.items()},
            "gap_ms": round(self.gap, 3),
            "plain_gap_ms": round(self.plain, 3),
            "stretched": round(self.stretched, 4),
            "handed_over": round(self.handed_over, 4),
        }


def phases_of(accounts: Iterable[Account], gaps: Sequence[float]) -> Phases:
    """`gaps`: between tokens, in seconds, of all requests."""
    told = [a for a in accounts if a.ttft is not None and a.queue is not None and a.attempts]
    parts: dict[str, list[float]] = {name: [] for name in FIRST_TOKEN}
    for account in told:
        assert account.ttft is not None
        known = {
            "router": account.queue or 0.0,
            "queue": account.phases.get("queue", 0.0),
            "prefill": account.phases.get("prefill", 0.0),
        }
        for name, seconds in known.items():
            parts[name].append(seconds)
        parts["rest"].append(max(0.0, account.ttft - sum(known.values())))
    plain = quantile(gaps, 0.5) or 0.0
    total = sum(gaps)
    over = sum(gap - plain for gap in gaps if gap > _TOLERATED * plain)
    return Phases(
        ttft={name: 1e3 * statistics.fmean(values) for name, values in parts.items() if values},
        gap=1e3 * total / len(gaps) if gaps else 0.0,
        plain=1e3 * plain,
        stretched=over / total if total else 0.0,
        handed_over=(
            sum(a.attempts[-1].prefill is not None for a in told) / len(told) if told else 0.0
        ),
    )


def mean(several: Sequence[Phases]) -> Phases:
    """Over repetitions. Raises ValueError of none."""
    if not several:
        raise ValueError("there is no mean of no phases")
    names = [name for name in FIRST_TOKEN if all(name in each.ttft for each in several)]
    return Phases(
        ttft={name: statistics.fmean(each.ttft[name] for each in several) for name in names},
        gap=statistics.fmean(each.gap for each in several),
        plain=statistics.fmean(each.plain for each in several),
        stretched=statistics.fmean(each.stretched for each in several),
        handed_over=statistics.fmean(each.handed_over for each in several),
    )


def why_first_token(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """What makes the difference of the means, the largest first; empty where nobody knows."""
    if not ours or not theirs:
        return ""
    changes = sorted(
        ((ours[name] - theirs[name], name) for name in ours if name in theirs),
        key=lambda pair: -abs(pair[0]),
    )
    said = [
        f"{abs(ms):.0f} ms {'more' if ms > 0 else 'less'} {_WORDS[name]}"
        for ms, name in changes if abs(ms) >= _SMALL_MS
    ]
    return ", ".join(said) or "no phase differs"


def why_between(ours: Phases, theirs: Phases) -> str:
    """What makes the difference between tokens."""
    return (
        f"gaps beyond the usual are {ours.stretched:.0%} of the time between tokens, against "
        f"{theirs.stretched:.0%}; the usual gap is {ours.plain:.1f} ms against {theirs.plain:.1f}"
    )

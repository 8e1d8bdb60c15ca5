"""What a comparison found, in words: where disaggregation wins, where it loses, by how much, why.
Pure.

It wins where the interval of the paired ratio of goodputs lies above 1, loses where it lies below,
and is tied where it holds 1. With one repetition there is no such interval: then the shares of
requests that attained are compared, by their own. Where both serve all, the tails are told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from baton.bench.compare.layouts import AUTO, COLOCATED, PEER, SPLIT
from baton.bench.compare.measure import Run
from baton.bench.compare.phases import mean, why_between, why_first_token
from baton.bench.compare.search import Capacity
from baton.bench.compare.statistics import Interval, difference_of, level_of, mean_of, ratio_of

WINS, LOSES, TIED = "wins", "loses", "is tied"
DISAGGREGATED = (SPLIT, AUTO)


@dataclass(frozen=True)
class Standing:
    """One layout at one rate, over its repetitions."""

    layout: str
    family: str
    rate: float
    runs: tuple[Run, ...]
    """By repetition."""

    def values(self, name: str) -> list[float]:
        """Of one figure, of the repetitions that have it."""
        found = [run.point.figure(name) for run in self.runs]
        return [value for value in found if value is not None]

    def interval(self, name: str) -> Interval | None:
        values = self.values(name)
        return mean_of(values) if values else None

    def mid(self, name: str) -> float:
        interval = self.interval(name)
        return interval.mid if interval else float("nan")

    @property
    def goodputs(self) -> list[float]:
        return [run.goodput for run in self.runs]


def standings(runs: Sequence[Run]) -> list[Standing]:
    """By rate, then in the order in which layouts were first measured."""
    found: dict[tuple[float, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.point.rate, run.point.layout), []).append(run)
    ordered = sorted(found.items(), key=lambda item: item[0][0])
    return [
        Standing(layout, group[0].point.family, rate,
                 tuple(sorted(group, key=lambda run: run.point.repetition)))
        for (rate, layout), group in ordered
    ]


def best_of(families: Sequence[str], found: Sequence[Standing]) -> Standing | None:
    """The one with the most goodput; of about equals the one with the shortest tail between
    tokens."""
    able = [each for each in found if each.family in families]
    if not able:
        return None
    most = max(mean_of(each.goodputs).mid for each in able)
    near = [each for each in able if mean_of(each.goodputs).mid >= 0.99 * most]
    return min(near, key=lambda each: each.mid("itl_p99_ms"))


def outcome(ours: Standing, theirs: Standing) -> tuple[str, Interval]:
    """WINS, LOSES or TIED, and the ratio of goodputs."""
    ratio = ratio_of(ours.goodputs, theirs.goodputs)
    if len(ours.runs) == 1:
        mine, other = (each.runs[0].point.attainment_ci or [0.0, 1.0] for each in (ours, theirs))
        if mine[0] > other[1]:
            return WINS, ratio
        return (LOSES if mine[1] < other[0] else TIED), ratio
    # Where one attained nothing there is no ratio, but by how much it is less.
    better = ratio if ratio.known else difference_of(ours.goodputs, theirs.goodputs)
    even = 1.0 if ratio.known else 0.0
    if better.above(even):
        return WINS, ratio
    return (LOSES if better.below(even) else TIED), ratio


def sentences(
    runs: Sequence[Run], capacities: Mapping[str, Sequence[Capacity]], wanted: float
) -> list[str]:
    """The whole verdict; empty without a disaggregated layout and another."""
    found = standings(runs)
    said: list[str] = []
    beside: list[str] = []
    by_outcome: dict[str, list[float]] = {WINS: [], LOSES: [], TIED: []}
    for rate in sorted({each.rate for each in found}):
        here = [each for each in found if each.rate == rate]
        ours, theirs = best_of(DISAGGREGATED, here), best_of((COLOCATED,), here)
        beside += [_beside(ours, each) for each in here if each.family == PEER and ours]
        if ours is None or theirs is None:
            continue
        result, ratio = outcome(ours, theirs)
        by_outcome[result].append(rate)
        said.append(_at(rate, ours, theirs, result, ratio))
    summary = [
        f"Disaggregation {result} at {_rates(rates)} requests/s."
        for result, rates in by_outcome.items() if rates
    ]
    return [*_capacity(capacities, wanted), *summary, *said, *beside]


def _at(
    rate: float, ours: Standing, theirs: Standing, result: str, ratio: Interval
) -> str:
    text = (
        f"At {rate:g} requests/s {ours.layout} {result} {'with' if result == TIED else 'against'} "
        f"{theirs.layout}: "
        f"{_times(ratio)} as many requests in time "
        f"({ours.mid('attainment'):.1%} against {theirs.mid('attainment'):.1%}); "
        f"first token {ours.mid('ttft_p50_ms'):.0f} ms against {theirs.mid('ttft_p50_ms'):.0f} "
        f"(P99 {ours.mid('ttft_p99_ms'):.0f} against {theirs.mid('ttft_p99_ms'):.0f}), "
        f"between tokens P99 {ours.mid('itl_p99_ms'):.1f} ms against "
        f"{theirs.mid('itl_p99_ms'):.1f}."
    )
    mine = mean([run.phases for run in ours.runs])
    other = mean([run.phases for run in theirs.runs])
    first = why_first_token(mine.ttft, other.ttft)
    return f"{text} Why: {first + '; ' if first else ''}{why_between(mine, other)}."


def _beside(ours: Standing | None, peer: Standing) -> str:
    """What its tails cost or gain against a server of others."""
    assert ours is not None
    ratios = [
        f"{words} {_times(ratio_of(mine, theirs))} as long"
        for name, words in (("ttft_mean_ms", "first tokens take"),
                            ("itl_p99_ms", "P99 between tokens is"))
        if len(mine := ours.values(name)) == len(theirs := peer.values(name)) > 0
    ]
    return (
        f"At {ours.rate:g} requests/s, {ours.layout} beside {peer.layout}: "
        + ("; ".join(ratios) or "nothing to compare") + "."
    )


def _capacity(capacities: Mapping[str, Sequence[Capacity]], wanted: float) -> list[str]:
    if not capacities:
        return []
    told = ", ".join(
        f"{layout} {'at least ' if any(c.fails == math.inf for c in found) else ''}"
        f"{_interval(level_of([c.holds for c in found]))}"
        for layout, found in capacities.items()
    )
    return [f"Highest rate at which {wanted:.0%} of requests attain, requests/s: {told}."]


def _times(ratio: Interval) -> str:
    if ratio.mid == float("inf"):
        return "infinitely many times"
    return f"{ratio.mid:.2f} times" + (
        f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.known else ""
    )


def _interval(interval: Interval) -> str:
    if not interval.known:
        return f"{interval.mid:.2f}"
    return f"{interval.mid:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _rates(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)

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

from baton.bench.compare.capacities import ratios
from baton.bench.compare.layouts import COLOCATED, DISAGGREGATED, PEER
from baton.bench.compare.measure import Run
from baton.bench.compare.phases import mean, why_between, why_first_token
from baton.bench.compare.search import Capacity
from baton.bench.compare.statistics import Interval, favours, level_of, mean_of, ratio_of

WINS, LOSES, TIED = "wins", "loses", "is tied"
_SIDES = {1: WINS, -1: LOSES, 0: TIED}


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


def paired(ours: Standing, theirs: Standing, name: str) -> tuple[list[float], list[float]]:
    """A figure of both, of the repetitions that both have it of: same seed, same requests."""
    other = {_requests(run): run.point.figure(name) for run in theirs.runs}
    pairs = [
        (mine, value) for run in ours.runs
        if (mine := run.point.figure(name)) is not None
        and (value := other.get(_requests(run))) is not None
    ]
    return [mine for mine, _ in pairs], [value for _, value in pairs]


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
    """WINS, LOSES or TIED, and the ratio of goodputs; of no pair of runs it is not a number."""
    mine, other = paired(ours, theirs, "goodput_per_s")
    if not mine:
        return TIED, Interval(math.nan, -math.inf, math.inf, 0)
    ratio = ratio_of(mine, other)
    if len(mine) == 1:
        first, second = _by_chance(ours, theirs), _by_chance(theirs, ours)
        if first[0] > second[1]:
            return WINS, ratio
        return (LOSES if first[1] < second[0] else TIED), ratio
    if not ratio.known:
        # One attained nothing. How many came is chance, and would be all that differs then.
        mine, other = paired(ours, theirs, "attainment")
    return _SIDES[favours(mine, other) if mine else 0], ratio


def _by_chance(one: Standing, other: Standing) -> list[float]:
    """Attainment of the first run that has its pair, by chance in its requests."""
    known = {_requests(run) for run in other.runs}
    run = next(run for run in one.runs if _requests(run) in known)
    return run.point.attainment_ci or [0.0, 1.0]


def _requests(run: Run) -> tuple[int, int]:
    """Runs at one rate that have this in common had the same requests."""
    return run.point.repetition, run.point.seed


def sentences(
    runs: Sequence[Run], capacities: Mapping[str, Sequence[Capacity]], wanted: float,
    families: Mapping[str, str] | None = None,
) -> list[str]:
    """The whole verdict; empty without a disaggregated layout and another. `families`: of layouts
    by name, where runs do not tell."""
    found = standings(runs)
    families = {**{each.layout: each.family for each in found}, **(families or {})}
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
    return [*_capacity(capacities, wanted), *_ratios(capacities, families), *summary, *said,
            *beside]


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
    told = []
    for name, words in (("ttft_mean_ms", "first tokens take"),
                        ("itl_p99_ms", "P99 between tokens is")):
        mine, theirs = paired(ours, peer, name)
        if mine:
            told.append(f"{words} {_times(ratio_of(mine, theirs))} as long")
    return (
        f"At {ours.rate:g} requests/s, {ours.layout} beside {peer.layout}: "
        + ("; ".join(told) or "nothing to compare") + "."
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


def _ratios(
    capacities: Mapping[str, Sequence[Capacity]], families: Mapping[str, str]
) -> list[str]:
    return [
        f"{ours} holds {least}{_times(ratio)} the rate that {theirs} holds."
        for ours, theirs, ratio, least in ratios(capacities, families)
    ]


def _times(ratio: Interval) -> str:
    if math.isnan(ratio.mid):
        return "nobody knows how many times"
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

"""What deaths and joins of workers cost the requests of a simulation: those around each, beside the
same requests of a run in which nothing happens, and beside the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from baton.bench.planning.estimates import estimate, share
from baton.bench.planning.events import AROUND, Happening
from baton.bench.planning.plan import Estimate
from baton.bench.planning.run import Span
from baton.bench.planning.wishes import Wishes
from baton.bench.simulator.cluster import Run
from baton.bench.simulator.outcome import Outcome

_BEGINS, _ENDS = "fails", "back"


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, or `the rest`: requests that had nothing to do with any."""

    what: str
    at_s: float | None
    """Of the part that counts."""
    requests: int
    """That arrived from AROUND seconds before to AROUND seconds after, over all seeds."""
    attained: Estimate | None
    """None: there were none."""
    undisturbed: Estimate | None
    """The same requests where nothing happens."""
    longest_gap_ms: float | None
    """That one of them waited for its next token."""
    undisturbed_gap_ms: float | None


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    of: str
    """The name of the row."""
    moments: list[Moment]
    """In the order of time; last, the rest."""
    retried: Estimate
    """Times that a request was sent to another worker, per run."""
    retries: dict[str, int]
    """By reason, over all seeds."""


@dataclass(frozen=True)
class Both:
    """One seed: with what happens, and without."""

    span: Span
    disturbed: Run
    calm: Run


def costs_of(
    runs: Sequence[Both], wishes: Wishes, happening: Happening, *, of: str = ""
) -> Costs:
    """`runs`: of at least one seed."""
    moments = []
    for number, (_, name, what) in enumerate(runs[0].disturbed.happened):
        # Seeds differ in how long it takes until something counts.
        stretches = [_around(each.disturbed.happened[number][0]) for each in runs]
        moments.append(_moment(
            f"{happening.names.get(name, name)} {_words(what)}",
            runs[0].disturbed.happened[number][0] - runs[0].span.warm,
            [([stretch], each, True) for stretch, each in zip(stretches, runs, strict=True)],
            wishes,
        ))
    moments.append(_moment(
        "the rest", None, [(_disturbed(each), each, False) for each in runs], wishes
    ))
    retries: Counter[str] = Counter()
    for each in runs:
        retries.update(each.disturbed.retries)
    return Costs(
        of=of,
        moments=moments,
        retried=estimate(sum(each.disturbed.retries.values()) for each in runs),
        retries=dict(retries),
    )


# -- inside ----------------------------------------------------------------------------------

_Stretch = tuple[float, float]


def _moment(
    what: str, at: float | None, parts: Iterable[tuple[list[_Stretch], Both, bool]],
    wishes: Wishes,
) -> Moment:
    """`parts`: (stretches, a seed, whether those within count or those outside)."""
    disturbed, calm, count = [], [], 0
    gaps: list[float] = []
    calm_gaps: list[float] = []
    for stretches, both, within in parts:
        mine, same = (_counted(run, both.span, stretches, within)
                      for run in (both.disturbed, both.calm))
        count += len(mine)
        if mine and same:
            disturbed.append(_attained(mine, wishes))
            calm.append(_attained(same, wishes))
            gaps.append(_longest_gap(mine))
            calm_gaps.append(_longest_gap(same))
    return Moment(
        what=what, at_s=None if at is None else round(at, 3), requests=count,
        attained=share(disturbed) if disturbed else None,
        undisturbed=share(calm) if calm else None,
        longest_gap_ms=max(gaps, default=None), undisturbed_gap_ms=max(calm_gaps, default=None),
    )


def _counted(run: Run, span: Span, stretches: list[_Stretch], within: bool) -> list[Outcome]:
    end = span.warm + span.counted
    return [
        outcome for outcome in run.outcomes
        if span.warm <= outcome.at < end
        and within == any(start <= outcome.at < stop for start, stop in stretches)
    ]


def _attained(outcomes: Sequence[Outcome], wishes: Wishes) -> float:
    return sum(map(wishes.kept, outcomes)) / len(outcomes)


def _longest_gap(outcomes: Sequence[Outcome]) -> float:
    """Milliseconds."""
    return round(1e3 * max(outcome.longest_gap for outcome in outcomes), 3)


def _disturbed(both: Both) -> list[_Stretch]:
    """Around all that happened, and while a worker was gone."""
    found = [_around(at) for at, _, _ in both.disturbed.happened]
    gone: dict[str, float] = {}
    for at, name, what in both.disturbed.happened:
        if what == _BEGINS:
            gone[name] = at
        elif what == _ENDS and name in gone:
            found.append((gone.pop(name), at))
    return [*found, *((at, float("inf")) for at in gone.values())]


def _around(at: float) -> _Stretch:
    return at - AROUND[0], at + AROUND[1]


def _words(what: str) -> str:
    return "is back" if what == _ENDS else "is asked for" if what == "asked for" else what

"""Whether two layouts answered the same, token by token.

Requests are greedy, so answers may part only where the two best tokens are about as likely, and a
batch that is put together differently rounds the other way. How near that has to be depends on the
numbers: `TIES`, in logits. What comes behind a tie is another text, and is not compared.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton.bench.compare.layouts import Layout
from baton.bench.compare.loads import Load
from baton.bench.compare.measure import Run
from baton.bench.compare.running import LayoutFailed, Start
from baton.bench.faults.judge import two_best
from baton.bench.serve.seen import Seen
from baton.protocol.tokens import unpack_tokens

TIES = {"float32": 1e-4, "bfloat16": 0.25, "float16": 0.03}
"""Two roundings of a logit between 16 and 32, where it is rounded to 8 or 11 bits."""

TwoBest = Callable[[Sequence[int]], tuple[tuple[int, int], float]]
"""The two likeliest tokens behind these, and how far apart their logits are."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two answers to one request part."""

    number: int
    """Of the request."""
    position: int
    tokens: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Agreement:
    compared: int
    """Requests that both answered to the end, and told the token ids of."""
    same: int
    ties: int = 0
    """Parted where that may be."""
    changed: int = 0
    """Parted where it may not be, or of different length."""
    unchecked: int = 0
    """Parted, and nobody was asked why."""
    widest: float = 0.0
    """Between the two best logits where answers parted, at most."""

    def to_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.__slots__}


def compare(ours: Sequence[Seen], theirs: Sequence[Seen]) -> tuple[int, list[Parting]]:
    """(requests compared, where they part) for two runs of the same requests in the same order. A
    difference in length alone parts with token -1."""
    compared, parted = 0, []
    for a, b in zip(ours, theirs, strict=True):
        if not (a.served and b.served and a.ids and b.ids):
            continue
        compared += 1
        place = next((i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=False)) if x != y),
                     None)
        if place is not None:
            parted.append(Parting(a.number, place, (a.ids[place], b.ids[place])))
        elif len(a.ids) != len(b.ids):
            parted.append(Parting(a.number, min(len(a.ids), len(b.ids)), (-1, -1)))
    return compared, parted


def judge(
    compared: int,
    parted: Sequence[Parting],
    prefix: Callable[[Parting], Sequence[int]],
    two_best: TwoBest | None,
    *,
    tie: float,
    most: int = 8,
) -> Agreement:
    """`prefix`: prompt and answer up to where they part. `two_best`: None where nobody can be
    asked; asked at most `most` times."""
    ties = changed = unchecked = 0
    widest = 0.0
    for index, parting in enumerate(parted):
        if -1 in parting.tokens:
            changed += 1
        elif two_best is None or index >= most:
            unchecked += 1
        else:
            best, gap = two_best(prefix(parting))
            widest = max(widest, gap)
            if set(parting.tokens) == set(best) and gap <= tie:
                ties += 1
            else:
                changed += 1
    return Agreement(compared, compared - len(parted), ties, changed, unchecked, widest)


def check_answers(
    runs: Sequence[Run], layouts: Sequence[Layout], load: Load, dtype: str, start: Start | None
) -> dict[str, Agreement]:
    """By layout: its answers beside those of the first of ours, over the first repetition at the
    lowest rate that was measured. That layout is started once more where somebody has to say how
    near a tie was; `start` None: nobody is asked. Raises LayoutFailed."""
    first = _first(runs)
    reference = next((layout for layout in layouts if layout.ours and layout.name in first), None)
    if reference is None:
        return {}
    base = first[reference.name]
    compared = {
        layout.name: compare(base.seen, first[layout.name].seen)
        for layout in layouts
        if layout is not reference and layout.name in first
        and len(first[layout.name].seen) == len(base.seen)
    }
    arrivals = load.arrivals(base.point.rate, base.point.seed)
    answers = {one.number: one.ids or [] for one in base.seen}

    def prefix(parting: Parting) -> list[int]:
        prompt = unpack_tokens(arrivals[parting.number].prompt())
        return [*prompt, *answers[parting.number][: parting.position]]

    def judged(ask: TwoBest | None) -> dict[str, Agreement]:
        tie = TIES.get(dtype, max(TIES.values()))
        return {name: judge(count, parted, prefix, ask, tie=tie)
                for name, (count, parted) in compared.items()}

    if start is None or not any(parted for _, parted in compared.values()):
        return judged(None)
    with start(reference) as running:
        try:
            return judged(lambda ids: two_best(running.url, ids))
        except (OSError, http.client.HTTPException, LookupError, ValueError) as error:
            raise LayoutFailed(reference.name, f"it does not say how near a tie was: {error!r}"
                               ) from error


def _first(runs: Sequence[Run]) -> dict[str, Run]:
    """By layout, those of the same requests as the first run of the lowest rate."""
    if not runs:
        return {}
    base = min(runs, key=lambda run: (run.point.rate, run.point.repetition)).point
    return {run.point.layout: run for run in runs
            if (run.point.rate, run.point.seed) == (base.rate, base.seed)}

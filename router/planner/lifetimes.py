"""How long answers are, of which most are not over yet. Pure.

Those that ended early are a biased sample: right after answers have become longer, only the short
ones have ended. So lengths are estimated as lifetimes, of which some are cut off (Kaplan and
Meier), and two groups are compared by how many of one should have ended, had it ended as the other
does (log-rank).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

Life = tuple[int, bool]
"""(tokens so far, whether it has ended)."""

_SHAPES = (1.0, 1.5, 2.0, 3.0, 4.5)
_DOUBT = 0.5
"""Endings that are added to both sides of a comparison, so that none at all is no certainty."""


def completed(lives: Sequence[Life], prior: float) -> tuple[list[float], float]:
    """(the expected length of each when it ends, what share of all these tokens lies beyond what
    was seen and is extrapolated). `prior`: mean length, which counts as one answer."""
    if not lives:
        return [], 0.0
    order = sorted(range(len(lives)), key=lambda i: (lives[i][0], not lives[i][1]))
    edge = lives[order[-1]][0]
    tail = _beyond([*lives, (max(1, round(prior)), True)], edge)
    result = [0.0] * len(lives)
    beyond, unseen, extrapolated = tail, 1.0, 0.0
    # From the longest down: `beyond` is how many tokens are to come after `edge`, for one that
    # gets that far; `unseen` the chance that it goes on beyond all that was seen.
    for at_risk, place in enumerate(reversed(order), 1):
        tokens, over = lives[place]
        beyond += edge - tokens
        edge = tokens
        if over:
            result[place] = tokens
            beyond *= 1 - 1 / at_risk
            unseen *= 1 - 1 / at_risk
        else:
            result[place] = tokens + beyond
            extrapolated += unseen * tail
    return result, extrapolated / max(1.0, sum(result))


def _beyond(lives: Sequence[Life], edge: int) -> float:
    """Tokens to come for one that has `edge`, by the likeliest Weibull distribution: whether an
    ending becomes likelier as an answer gets longer decides how far to extrapolate."""
    ended = [math.log(max(1, tokens)) for tokens, over in lives if over]
    logs = [math.log(max(1, tokens)) for tokens, _ in lives]
    best = (-math.inf, 1.0, 1.0)
    for shape in _SHAPES:
        scale = sum(math.exp(shape * value) for value in logs) / len(ended)
        likelihood = len(ended) * math.log(shape / scale) + (shape - 1) * sum(ended)
        if likelihood > best[0]:
            best = (likelihood, shape, scale)
    _, shape, scale = best
    start: float = max(1.0, edge) ** shape / scale
    # Survival after the edge, summed in steps that grow.
    total, at, step = 0.0, max(1.0, float(edge)), float(scale ** (1 / shape)) / 8
    while True:
        alive = math.exp(start - (at + step / 2) ** shape / scale)
        total += alive * step
        if alive < 1e-3:
            return total
        at += step
        step *= 1.1


def ended_differently(recent: Sequence[Life], before: Sequence[Life]) -> float:
    """By how many standard deviations fewer (below 0) or more of `recent` have ended than if they
    ended as those `before`."""
    if not recent or not before:
        return 0.0
    # Nelson and Aalen: the hazard of ending, summed up to a length.
    endings = Counter(tokens for tokens, over in before if over)
    reached = sorted(tokens for tokens, _ in before)
    lengths = sorted(endings)
    hazards: list[float] = []
    total = 0.0
    for tokens in lengths:
        total += endings[tokens] / (len(reached) - bisect_left(reached, tokens))
        hazards.append(total)
    expected = _DOUBT
    for tokens, over in recent:
        # An ending at a length counts in full, being cut off before it not at all.
        place = bisect_left(lengths, tokens + (1 if over else 0))
        if place:
            expected += hazards[place - 1]
    seen = _DOUBT + sum(over for _, over in recent)
    # The signed root of a Poisson count's deviance; what the others do not know counts too.
    deviance = 2 * (seen * math.log(seen / expected) - (seen - expected))
    doubt = 1 + len(recent) / max(1, sum(endings.values()))
    return math.copysign(math.sqrt(max(0.0, deviance) / doubt), seen - expected)

"""What a plan comes to, in one or two sentences."""

from __future__ import annotations

from collections.abc import Sequence

from baton.bench.planning.estimates import estimate
from baton.bench.planning.figures import figure
from baton.bench.planning.plan import COLOCATED, Choice


def verdict(choices: Sequence[Choice], rate: float | None, *, by_cost: bool = False) -> str:
    """`choices`: the best first, at least one. `by_cost`: they are ranked by that."""
    best = choices[0]
    if not best.feasible:
        return f"Nothing meets the targets; {best.name} comes nearest."
    if rate is None:
        text = (
            f"{best.name} serves {figure(best.capacity_per_s)} requests/s within the targets, "
            + (f"{figure(best.goodput_per_cost or 0.0)} requests for each unit of money"
               if by_cost else f"{figure(best.goodput_per_gpu)} per GPU")
        )
    else:
        text = (
            f"{best.name} serves {figure(rate)} requests/s within the targets on {best.gpus} "
            f"GPU{'s' if best.gpus > 1 else ''}, and up to {figure(best.capacity_per_s)}"
        )
    text += f"; {_END[best.binds]}."
    other = next((c for c in choices[1:] if (c.shape == COLOCATED) != (best.shape == COLOCATED)),
                 None)
    return text if other is None else f"{text} {_against(best, other, by_cost)}"


_END = {
    "prefill": "what ends it is reading prompts",
    "decode": "what ends it is writing tokens",
    "all": "what ends it are all workers together",
    "link": "what ends it are the links",
    "ttft": "the first token is late first",
    "itl": "the time between tokens is missed first",
    "e2e": "the time of whole answers is missed first",
    "nothing": "nothing ends it",
}


def tied(one: Choice, other: Choice) -> bool:
    """What was simulated does not tell them apart: the interval of their differences per GPU or per
    cost, seed by seed, holds 0. Without several seeds of both nothing is said to be a tie."""
    if one.simulated is None or other.simulated is None:
        return False
    first, second = one.simulated.capacities_per_s, other.simulated.capacities_per_s
    if len(first) != len(second) or len(first) < 2:
        return False
    found = estimate(
        a / one.divisor - b / other.divisor for a, b in zip(first, second, strict=True)
    )
    return found.low <= 0 <= found.high


def _against(best: Choice, other: Choice, by_cost: bool) -> str:
    mine, theirs = best.capacity_per_s / best.divisor, other.capacity_per_s / other.divisor
    each = "for the money" if by_cost else "per GPU"
    if theirs <= 0:
        return f"{other.name} ({other.shape}) does not keep the targets at any rate."
    what = f"{other.name} ({other.shape}, {other.gpus} GPU{'s' if other.gpus > 1 else ''})"
    if tied(best, other):
        return f"{what} is not told apart from it: {mine / theirs - 1:+.0%} {each}, within chance."
    if mine >= theirs:
        return f"That is {mine / theirs - 1:.0%} more {each} than {what} can."
    return (
        f"{what} could serve {theirs / mine - 1:.0%} more {each}, of which this rate makes no use."
    )

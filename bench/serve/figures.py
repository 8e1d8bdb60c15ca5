"""Figures of a run, with confidence intervals. Pure.

Percentiles are those of `bench/quantiles.py`. An interval is the middle 95 % of what comes out
when the requests are drawn again, as many, with replacement (bootstrap): whole requests, because
gaps of one request are not independent. It says what chance in the requests does to a figure, not
what another day or machine would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from baton.bench.quantiles import quantiles, quantiles_of_counts
from baton.bench.serve.seen import CANCELLED, REFUSED, Seen, tokens_within

if TYPE_CHECKING:
    from baton.bench.serve.served import Served

Floats = npt.NDArray[np.float64]
PERCENTILES = (50, 90, 95, 99)
_SHARES = tuple(share / 100 for share in PERCENTILES)
_DRAWS = 400
_MOST = 20_000_000
"""Values drawn at most; more gaps, fewer draws."""


def figures(served: Served, *, e2e: float | None = None) -> dict[str, Any]:
    """`Served.summary`. What the client cancelled is neither good nor bad: it is in no figure but
    the count."""
    everyone, seconds = served.counted, served.seconds
    counted = [seen for seen in everyone if seen.outcome != CANCELLED]
    good = np.array([seen.attained(e2e) for seen in counted], dtype=float)
    done = [seen for seen in counted if seen.served]
    prompts = sum(seen.prompt for seen in done)
    tokens = tokens_within(served.requests, served.warmup, served.end)
    ttft, itl = [_ms(counted, name) for name in ("ttft", "gaps")]
    rng = np.random.default_rng(0)
    shares = _draws(good, rng, lambda drawn: drawn.mean(axis=1))
    return {
        "requests": len(everyone),
        "cancelled": len(everyone) - len(counted),
        "seconds": round(seconds, 3),
        "rate_per_s": round(len(everyone) / seconds, 4),
        "goodput_per_s": round(float(good.sum()) / seconds, 4),
        "goodput_ci": _interval(shares * len(good) / seconds, 4),
        "attainment": round(float(good.mean()), 4) if len(good) else None,
        "attainment_ci": _interval(shares, 4),
        "served": round(len(done) / len(counted), 4) if counted else None,
        "refused": sum(seen.outcome == REFUSED for seen in counted),
        "ends": dict(sorted(Counter(seen.outcome for seen in everyone).items())),
        "held": sum(seen.held for seen in everyone),
        "short": sum(seen.tokens < seen.asked for seen in done),
        "ttft_ms": _spread(ttft, rng),
        "itl_ms": _spread(itl, rng),
        "tpot_ms": _spread(_ms(done, "tpot"), rng),
        "e2e_ms": _spread(_ms(done, "e2e"), rng),
        "longest_gap_ms": _spread(_ms(done, "longest_gap"), rng),
        "output_tokens_per_s": round(tokens / seconds, 2),
        "prompt_tokens_per_s": round(prompts / seconds, 2),
        "output_tokens": sum(seen.tokens for seen in done),
        "prompt_tokens": prompts,
        "output_tokens_per_s_to_end": _to_end(done),
        "hit_rate": round(sum(seen.cached for seen in done) / prompts, 4) if prompts else None,
        "counted_by": sorted({seen.counted_by for seen in counted if seen.counted_by}),
        "explained": explained(counted),
        "client": {
            **served.client.summary(),
            "doubts": served.client.doubts(_median(ttft), _median(itl)),
        },
    }


def explained(seen: Sequence[Seen]) -> dict[str, Any]:
    """What servers said of their decisions: how often each, and predictions over what was seen."""
    told: dict[str, Any] = {}
    for name in ("route", "reason"):
        found = Counter(one.headers[name] for one in seen if name in one.headers)
        if found:
            told[name] = dict(found.most_common())
    for name, actual in (("ttft", "ttft"), ("itl", "tpot")):
        errors = [
            abs(float(one.headers[f"predicted-{name}-ms"]) / (1e3 * value) - 1)
            for one in seen
            if f"predicted-{name}-ms" in one.headers and (value := getattr(one, actual))
        ]
        if errors:
            told[f"predicted_{name}_error"] = round(float(np.median(errors)), 4)
    return told


# -- values of requests ----------------------------------------------------------------------


def _ms(seen: Sequence[Seen], name: str) -> list[Floats]:
    """Milliseconds; of each request an array, of those that have any."""
    values = [getattr(one, name) for one in seen]
    return [
        1e3 * np.atleast_1d(np.asarray(value, dtype=float))
        for value in values
        if value is not None and np.size(value)
    ]


def _median(values: Sequence[Floats]) -> float | None:
    """In seconds."""
    return float(np.median(np.concatenate(values))) / 1e3 if values else None


def _to_end(done: Sequence[Seen]) -> float | None:
    """Tokens of what was served, over the time from its first sending to its last token: as some
    other clients count."""
    spans = [(one.sent, one.sent + one.e2e, one.tokens) for one in done
             if one.sent is not None and one.e2e is not None]
    if not spans:
        return None
    span = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return round(sum(tokens for _, _, tokens in spans) / max(1e-9, span), 2)


def _spread(values: Sequence[Floats], rng: np.random.Generator) -> dict[str, Any] | None:
    """Mean, percentiles and largest, with intervals of mean and percentiles."""
    if not values:
        return None
    whole = np.concatenate(values)
    found: dict[str, Any] = {"mean": round(float(whole.mean()), 3)}
    found |= {
        f"p{share}": round(float(value), 3)
        for share, value in zip(PERCENTILES, quantiles(whole, _SHARES), strict=True)
    }
    found["max"] = round(float(whole.max()), 3)
    if len(values) > 1:
        found["ci"] = _intervals(values, rng)
    return found


# -- bootstrap -------------------------------------------------------------------------------


def _intervals(values: Sequence[Floats], rng: np.random.Generator) -> dict[str, Any]:
    """Of mean and percentiles. Values are sorted once; a drawn set of requests is a weight on each
    of them."""
    owner = np.repeat(np.arange(len(values)), [len(value) for value in values])
    whole = np.concatenate(values)
    order = np.argsort(whole)
    whole, owner = whole[order], owner[order]
    draws = max(50, min(_DRAWS, _MOST // len(whole)))
    found = np.empty((draws, 1 + len(PERCENTILES)))
    for draw in range(draws):
        chosen = rng.integers(0, len(values), len(values))
        weights = np.bincount(chosen, minlength=len(values))[owner]
        found[draw, 0] = (whole * weights).sum() / weights.sum()
        found[draw, 1:] = quantiles_of_counts(whole, weights, _SHARES)
    names = ("mean", *(f"p{share}" for share in PERCENTILES))
    return {name: _interval(found[:, n], 3) for n, name in enumerate(names)}


def _draws(values: Floats, rng: np.random.Generator, of: Any) -> Floats:
    """`of` many drawn sets."""
    if not len(values):
        return np.zeros(0)
    draws = max(50, min(_DRAWS, _MOST // len(values)))
    return np.asarray(of(values[rng.integers(0, len(values), (draws, len(values)))]))


def _interval(drawn: Floats, digits: int) -> list[float] | None:
    if not len(drawn):
        return None
    low, high = quantiles(drawn, (0.025, 0.975))
    return [round(float(low), digits), round(float(high), digits)]

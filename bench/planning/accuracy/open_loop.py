"""Requests that come at their own times to one worker, whatever became of the others."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from baton.bench.planning.accuracy.one_worker import Job, OneWorker
from baton.bench.quantiles import quantile
from baton.protocol.curves import StepCurve

_WARM = 0.05
"""Part of the requests that do not count: the worker was empty when they came."""


def open_loop(
    curve: StepCurve,
    rate: float,
    count: int,
    prompt: int,
    output: int,
    *,
    context: int = 0,
    seed: int = 1,
    **worker: Any,
) -> list[Job]:
    """Equal requests as a Poisson process of `rate` per second, `count` of them, each as it ended.
    With `prompt` 0 they are only decoded, and attend to `context` tokens to begin with. `worker`:
    as OneWorker takes them."""
    random = Random(seed)
    ended: list[Job] = []
    engine = OneWorker(curve, done=ended.append, **worker)
    at = 0.0
    for _ in range(count):
        at += random.expovariate(rate)
        engine.send(Job(at, prompt, output, context), at)
    engine.run()
    ended.sort(key=lambda job: job.sent)
    return ended[int(_WARM * count) :]


def highest_rate(
    seconds: Callable[[float], list[float]], target: float, share: float, most: float
) -> float:
    """Of requests per second, up to `most`, at which this share of what `seconds(rate)` returns is
    at most `target`; to half a percent."""
    low, high = 0.0, most
    while high - low > 5e-3 * high:
        rate = (low + high) / 2
        found = quantile(seconds(rate), share)
        if found is not None and found <= target:
            low = rate
        else:
            high = rate
    return low

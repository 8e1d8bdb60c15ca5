"""What the actual latencies of requests teach about predictions. Pure.

A curve knows steps; between a record that leaves the router and a token that comes back there is
more: messages, threads that wait for a core, sampling. What of this is systematic vanishes here, by
a factor and a lag for each worker; both are bounded, so that a disturbance cannot run away with
them.
"""

from __future__ import annotations

import math

from baton.protocol.curve_fit import CurveFit
from baton.router.speed import UNCORRECTED, Correction

FACTOR = (0.25, 4.0)
MOST_LAG = 0.5
GAIN = 0.1
"""Of a single request's error, what is believed."""
LARGEST_ERROR = 0.5
"""In logarithms: what is further off counts as this."""
_ANCHOR = (0.005, 1.0)
_TRUST = 1.0


class Accuracy:
    """Of one worker."""

    def __init__(self) -> None:
        self._first_token = CurveFit(_ANCHOR, trust=_TRUST)
        self._decode = 0.0
        self._handoff: float | None = None

    def first_token(self, queue: float, work: float, actual: float) -> None:
        """It was predicted to wait `queue` seconds and to compute for `work` (by its curve); the
        first token came after `actual`. A long queue says more of others than of this one."""
        if (0 < queue < work and actual > queue) or queue == 0:
            self._first_token.observe((1.0, work), actual - queue)

    def interval(self, ratio: float) -> None:
        """Of a request that is over: actual over predicted intervals, before correction, of which
        the latter knew how much there was to decode all the time."""
        if ratio > 0:
            self._decode += GAIN * _clipped(math.log(ratio) - self._decode)
            self._decode = min(max(self._decode, math.log(FACTOR[0])), math.log(FACTOR[1]))

    def handoff(self, transfer: float, actual: float) -> None:
        """Decoding here went on `actual` seconds later than it might have after the first token,
        of which the link was predicted to take `transfer`."""
        beyond = max(0.0, actual - transfer)
        if self._handoff is None:
            self._handoff = min(beyond, MOST_LAG)
        else:
            beyond = min(beyond, 2 * self._handoff + 0.01)
            self._handoff = min(MOST_LAG, self._handoff + GAIN * (beyond - self._handoff))

    @property
    def correction(self) -> Correction:
        if not self._first_token.count and self._handoff is None and not self._decode:
            return UNCORRECTED
        lag, factor = (0.0, 1.0)
        if self._first_token.count:
            lag, factor = self._first_token.coefficients
        return Correction(
            lag=min(lag, MOST_LAG),
            prefill=min(max(factor, FACTOR[0]), FACTOR[1]),
            decode=math.exp(self._decode),
            handoff=self._handoff or 0.0,
        )


class OutputLengths:
    """How many tokens requests get, lane by lane: a mean that forgets."""

    UNKNOWN = 200.0
    """Before the first has ended. (What clients allow is mostly far more than they get.)"""
    MOST_LANES = 64

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def ended(self, lane: str, tokens: int) -> None:
        mean = self._means.get(lane)
        if mean is not None:
            self._means[lane] = mean + GAIN / 2 * (tokens - mean)
        elif tokens and len(self._means) < self.MOST_LANES:
            self._means[lane] = float(tokens)

    def expected(self, lane: str) -> float:
        """Still to come, whatever came before."""
        return self._means.get(lane, self.UNKNOWN)


def _clipped(error: float) -> float:
    return min(max(error, -LARGEST_ERROR), LARGEST_ERROR)

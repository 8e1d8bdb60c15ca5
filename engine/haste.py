"""How long those who may come soon can be kept waiting by a step without them. Pure: time is passed
in.

A step cannot be interrupted. While urgent prompts keep coming to a worker, a step that holds only
prompts which are due far later takes at most a part of what the urgent ones have until their first
token: whoever comes during it waits for half of that, on average. Such prompts take some more steps
then, and still go on.
"""

from __future__ import annotations

import math

FAR = 5.0
"""Seconds by which a prompt is due later than another to give way to it."""
PART = 0.1
"""Of the tightest target for first tokens."""
MEMORY = 30.0
"""Seconds after the last urgent prompt in which another one is reckoned with."""


class Haste:
    def __init__(self) -> None:
        self._tightest = math.inf
        self._at = -math.inf

    def came(self, ttft: float | None, now: float) -> None:
        """A prompt with this target, in seconds."""
        if ttft is not None and (ttft <= self._tightest or now - self._at > MEMORY):
            self._tightest, self._at = ttft, now

    def longest(self, due_in: float, now: float) -> float:
        """Seconds that a step may take of whose prompts the first is due in so many; infinite where
        nobody is to be reckoned with who is due FAR sooner."""
        if now - self._at > MEMORY or due_in <= self._tightest + FAR:
            return math.inf
        return PART * self._tightest

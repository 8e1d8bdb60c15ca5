"""The prompts that one worker has to compute, and how far it should be. Pure: `now` is passed in.

    add --> behind others --> head, since the one before it was through --> done (or gone)

A worker computes them in about the order in which it got them. One that is through before its turn
has taken its time from the head. Times are seconds on the caller's clock.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Generic, TypeVar

MEMORY = 10.0
"""Seconds over which `pressure` is averaged."""

GAIN = 0.1
"""Of a single prompt in the average."""
LEAST_SEEN = 1.0
"""Seconds by which the time seen is taken to be longer: the first prompt says little."""

Prompt = TypeVar("Prompt", bound=Hashable)


class Backlog(Generic[Prompt]):
    def __init__(self) -> None:
        self._work: dict[Prompt, float] = {}
        self._head_since = 0.0
        self._load = 0.0
        self._loaded_at = -math.inf
        self._since = 0.0
        """When it got its first prompt."""
        self.typical = 0.0
        """Seconds of a prompt, on average."""
        self._foreign = 0.0
        self._foreign_at = 0.0

    def __len__(self) -> int:
        return len(self._work)

    def add(self, prompt: Prompt, work: float, now: float) -> None:
        """It takes so many seconds. Idempotent."""
        if prompt in self._work or work <= 0:
            return
        if not self._work:
            self._head_since = now
        self._work[prompt] = work
        self.typical += (work - self.typical) * (GAIN if self.typical else 1.0)
        if self._load == 0.0:
            self._since = now
        self._load = self._kept(now) + work / MEMORY
        self._loaded_at = now

    def drop(self, prompt: Prompt, now: float) -> None:
        """It is through, or not wanted any more. Idempotent."""
        if prompt not in self._work:
            return
        was_head = next(iter(self._work)) == prompt
        work = self._work.pop(prompt)
        self._head_since = max(now, self._head_since) if was_head else self._head_since + work

    def hear_of_others(self, seconds: float, now: float) -> None:
        """So much more than what was added here the worker says that it has."""
        self._foreign, self._foreign_at = seconds, now

    @property
    def head_work(self) -> float:
        """Of the prompt that is being computed; 0 for none."""
        return next(iter(self._work.values()), self._foreign)

    @property
    def head_until(self) -> float:
        """When it should be through."""
        if self._work:
            return self._head_since + self.head_work
        return self._foreign_at + self._foreign if self._foreign else -math.inf

    @property
    def queued(self) -> float:
        """Seconds of work behind it."""
        if not self._work:
            return 0.0
        return sum(self._work.values()) - self.head_work + self._foreign

    def pressure(self, now: float) -> float:
        """Share of the last time that its prompts should have taken."""
        if self._load == 0.0:
            return 0.0
        seen = 1 - math.exp(-(max(0.0, now - self._since) + LEAST_SEEN) / MEMORY)
        return self._kept(now) / seen

    def _kept(self, now: float) -> float:
        return self._load * math.exp(-max(0.0, now - self._loaded_at) / MEMORY)

"""One worker of any engine, as far as published measurements depend on it: what it puts into a
step, and how long that takes.

The simulator of clusters runs our own policies; measurements of other engines were made with
theirs, of which there are three kinds (`FILLING`).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from baton.protocol.curves import StepCurve, StepShape, attention_pairs

FILLING = ("mixed", "whole", "prompts first")
"""Prompts in chunks beside decodes; prompts only whole, beside decodes; prompts in steps of their
own, before any decode."""


@dataclass(slots=True)
class Job:
    """A request. Times in seconds, lengths in tokens."""

    sent: float
    prompt: int
    """0: computed elsewhere, it begins with its second token."""
    output: int
    context: int = 0
    read: int = 0
    """Prompt tokens so far."""
    left: int = 0
    """Tokens to write after the first."""
    first: float = 0.0
    """When the first token was there."""
    last: float = 0.0

    @property
    def ttft(self) -> float:
        return self.first - self.sent

    @property
    def tpot(self) -> float:
        return (self.last - self.first) / (self.output - 1) if self.output > 1 else 0.0


class OneWorker:
    """Its steps take exactly what the curve says."""

    def __init__(
        self,
        curve: StepCurve,
        *,
        filling: str = "mixed",
        step_tokens: int = 8192,
        kv_tokens: int = 1 << 62,
        done: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """`kv_tokens`: what the KV pool holds; a request is taken in when all of it fits. `done`
        is told of each that ends, at `now`. Raises ValueError for a filling that is not known."""
        if filling not in FILLING:
            raise ValueError(f"steps are filled as one of {', '.join(FILLING)}, not {filling!r}")
        self.now = 0.0
        self._curve = curve
        self._filling = filling
        self._step_tokens = step_tokens
        self._kv_tokens = kv_tokens
        self._done = done
        self._number = 0
        self._coming: list[tuple[float, int, Job]] = []
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._taken = 0
        """Tokens of the KV pool that are spoken for."""

    def send(self, job: Job, at: float) -> None:
        """It reaches the engine then, and not before now."""
        self._number += 1
        heapq.heappush(self._coming, (at, self._number, job))

    def run(self) -> None:
        """Until there is nothing left to do."""
        while self._coming or self._waiting or self._running:
            while self._coming and self._coming[0][0] <= self.now:
                self._waiting.append(heapq.heappop(self._coming)[2])
            if not self._waiting and not self._running:
                self.now = self._coming[0][0]
                continue
            read, shape = self._fill()
            if shape.prefill_tokens:
                self._step(read, shape)
            elif self._running:
                self._decode()

    # -- inside --------------------------------------------------------------------------------

    def _fill(self) -> tuple[list[Job], StepShape]:
        """(prompts that this step completes, what it holds of prompts)."""
        alone = self._filling == "prompts first"
        room = self._step_tokens - (0 if alone else len(self._running))
        read: list[Job] = []
        chunks = tokens = pairs = 0
        while self._waiting and room > 0:
            job = self._waiting[0]
            if not job.read:
                wanted = job.prompt + job.output
                if self._taken and self._taken + wanted > self._kv_tokens:
                    break
                if self._filling == "whole" and tokens and job.prompt > room:
                    break
                self._taken += wanted
            if not job.prompt:
                self._waiting.popleft()
                self._begin(job)
                continue
            chunk = min(job.prompt - job.read, room)
            chunks += 1
            tokens += chunk
            pairs += attention_pairs(chunk, job.read)
            job.read += chunk
            room -= chunk
            if job.read < job.prompt:
                break
            self._waiting.popleft()
            read.append(job)
        return read, StepShape(chunks, tokens, pairs)

    def _step(self, read: list[Job], shape: StepShape) -> None:
        beside = [] if self._filling == "prompts first" else self._running
        self.now += self._curve.seconds(shape + _decodes(beside))
        self._written(1, beside)
        for job in read:
            job.context = job.prompt
            self._begin(job)
        self._end()

    def _begin(self, job: Job) -> None:
        job.first = self.now
        job.context += 1
        job.left = job.output - 1
        self._running.append(job)

    def _decode(self) -> None:
        """Steps with the same sequences in them, at once; until one ends or a request comes."""
        running = self._running
        steps = min(job.left for job in running)
        shape = _decodes(running)
        if self._coming:
            first = self._curve.seconds(shape)
            steps = max(1, min(steps, int((self._coming[0][0] - self.now) / first) + 1))
        # Each step attends to one token more of every sequence than the one before.
        growth = self._curve.context * len(running) * steps * (steps - 1) / 2
        self.now += steps * self._curve.seconds(shape) + growth
        self._written(steps, running)
        self._end()

    def _written(self, steps: int, jobs: list[Job]) -> None:
        for job in jobs:
            job.left -= steps
            job.context += steps

    def _end(self) -> None:
        ended = [job for job in self._running if job.left <= 0]
        if not ended:
            return
        self._running = [job for job in self._running if job.left > 0]
        for job in ended:
            self._taken -= job.prompt + job.output
            job.last = self.now
            self._done(job)


def _decodes(jobs: list[Job]) -> StepShape:
    return StepShape.decodes(len(jobs), sum(job.context for job in jobs))

"""What a pool of workers makes of a workload: prefill, decode, or both on the same workers. Pure.

    prefill   a queue for k servers. A service is a prompt's own work and what its steps cost; the
              more wait, the more share a step. The most urgent class overtakes the others.
    decode    Little's law: the batch is rate x tokens x step time, and the step grows with the
              batch. The batch varies around that, the more the nearer it comes to what the workers
              can do, and latency is kept while it stays below what the target allows.
    both      a step is filled with prompt tokens up to the tightest inter-token target, so
              prompts are read at the part of a step that decodes leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from baton.protocol.curves import StepCurve
from baton.router.planner.queueing import Waiting, normal_below, waiting
from baton.router.planner.tails import Between, FirstToken
from baton.router.planner.workload import CHUNK, Workload

STARVED = 0.02
"""The part of a step that prompts get where decodes alone exceed the budget."""
OWN_AVERAGE = 0.736
"""A request's mean latency varies less than the batch: of the variance of a quantity with memory
1/L, so much is left in its mean over a life of mean length L (2 (x - 1 + exp -x) / x^2 at 1)."""
MOST_SPREAD = 0.3
_ROUNDS = 8
_STEP = 1.25
"""Of the search for how many prompts share a step."""


_Part = tuple[float, float, float]


class Kind(NamedTuple):
    """Workers of one speed."""

    curve: StepCurve
    kv_tokens: int
    """Tokens that its pool holds."""
    max_running: int
    step_tokens: int = 2048
    """Most tokens of a step."""
    prefill_chunk: int = CHUNK
    """Most of these that are of one prompt."""

    @property
    def chunk(self) -> int:
        return min(self.prefill_chunk, self.step_tokens)


class Prefilling(NamedTuple):
    attained: tuple[float, ...]
    """By class: the share whose first token is in time."""
    ttft: float
    """Mean, seconds; infinite when they cannot keep up."""
    load: float
    """Of what the workers can do; 1 is all."""
    tail: tuple[FirstToken, ...] = ()


class Decoding(NamedTuple):
    attained: tuple[float, ...]
    """By class: the share whose tokens come in time."""
    itl: float
    """Mean, seconds; infinite when they cannot keep up."""
    batch: float
    """Sequences on a worker, on average."""
    fits: float
    """The share that finds room in memory."""
    load: float
    tail: tuple[Between, ...] = ()


class PhaseModel:
    """A workload on workers of one kind."""

    def __init__(self, workload: Workload, kind: Kind, handoff: float = 0.0) -> None:
        """`handoff`: seconds of a transfer that nothing hides; they delay the second token."""
        self.workload = workload
        self.kind = kind
        self.handoff = handoff
        curve = kind.curve
        self.base = curve.base
        self._bins = tuple(
            tuple(
                (part.weight, part.work(curve, chunks := part.chunks(kind.chunk)), chunks)
                for part in group.bins
            )
            for group in workload.classes
        )
        self.work = sum(weight * work for group in self._bins for weight, work, _ in group)
        """Seconds of a mean prompt, without what every step costs."""
        self.sequence = curve.decode + curve.context * workload.context
        """Seconds that one decoding sequence adds to a step."""
        # Room for the noise of single steps, as the workers themselves leave it.
        self.budget = workload.itl / math.exp(min(MOST_SPREAD, curve.spread) / 2)
        self.slots = max(1.0, min(
            float(kind.max_running),
            kind.kv_tokens / workload.context if workload.context > 0 else math.inf,
        ))

    # -- what a worker can do at most ----------------------------------------------------------

    @cached_property
    def prefill_rate(self) -> float:
        """Prompts per second of a worker that does nothing else, its steps full."""
        seconds = self.work + self.base * max(
            self.workload.tokens / self.kind.step_tokens, 1e-3
        )
        return 1.0 / seconds if seconds > 0 else math.inf

    @cached_property
    def free(self) -> float:
        """The part of a step within the budget that is left for tokens of either phase."""
        if self.budget == math.inf:
            return 1.0
        return max(STARVED, 1.0 - self.base / self.budget)

    @cached_property
    def decode_rate(self) -> float:
        """Requests per second that a worker can decode within the budget and its memory."""
        gaps = self.workload.gaps
        if gaps <= 0:
            return math.inf
        batch = self.slots
        if self.sequence > 0 and self.budget < math.inf:
            batch = min(batch, max(self.free * self.budget / self.sequence, STARVED))
        return batch / (gaps * self.quiet(batch))

    @cached_property
    def mixed_prefill_rate(self) -> float:
        """Prompts per second of a worker that keeps the inter-token budget all the time."""
        return self.free / self.work if self.work > 0 else math.inf

    def quiet(self, batch: float) -> float:
        """Seconds of a step that only decodes."""
        return self.base + self.sequence * batch

    # -- pools ---------------------------------------------------------------------------------

    def prefill(self, servers: int, rate: float) -> Prefilling:
        most = max(1.0, self.kind.step_tokens / max(1.0, self.workload.tokens))
        return self._read(servers, rate, self.base, most, None)

    def decode(self, servers: int, rate: float, moved: float = 1.0) -> Decoding:
        """`moved`: the share that was prefilled elsewhere."""
        if self.workload.gaps <= 0 or rate <= 0:
            return Decoding((1.0,) * len(self._bins), 0.0, 0.0, 1.0, 0.0)
        tokens = rate * self.workload.gaps / servers
        share = tokens * self.sequence
        if share >= 1.0:
            never = (Between(1.0, math.inf, 0.0),)
            return Decoding((0.0,) * len(self._bins), math.inf, math.inf, 0.0, share, never)
        # Each of n sequences is served at 1 / (base + sequence x n): n is negative binomial.
        batch = (tokens * self.base + share / servers) / (1.0 - share)
        return self._written(servers, rate, batch, batch / tokens, moved)

    def both(
        self, servers: int, prefills: float, decodes: float, moved: float = 0.0
    ) -> tuple[Prefilling, Decoding]:
        """Rates of prompts that are read and of answers that are written on these workers."""
        if prefills <= 0:
            idle = Prefilling((1.0,) * len(self._bins), 0.0, 0.0)
            return idle, self.decode(servers, decodes, moved)
        tokens = decodes * self.workload.gaps / servers
        batch, itl = 0.0, self.base
        for _ in range(_ROUNDS):
            quiet, room, most = self._beside(batch)
            busy = min(1.0, self._wait(self._parts(room), servers, prefills, quiet, most)[1])
            itl = quiet + busy * min(room, self.work * (1.0 if busy < 1.0 else most))
            following = min(tokens * itl, 4 * self.slots)
            if abs(following - batch) <= 1e-3 * max(1.0, batch):
                break
            batch = following
        quiet, room, most = self._beside(batch)
        reading = self._read(servers, prefills, quiet, most, room)
        if decodes <= 0 or self.workload.gaps <= 0:
            return reading, Decoding((1.0,) * len(self._bins), 0.0, 0.0, 1.0, 0.0)
        # Prompts fill steps no further than the budget: what breaks it is too many decodes.
        writing = self._written(servers, decodes, batch, itl, moved)
        return reading, writing

    # -- inside ----------------------------------------------------------------------------------

    def _beside(self, batch: float) -> tuple[float, float, float]:
        """Of steps with so many decodes: (their seconds without prompts, seconds that prompts may
        have, prompts that may share one)."""
        quiet = self.quiet(batch)
        full = self.work * max(1.0, self.kind.step_tokens / max(1.0, self.workload.tokens))
        room = max(min(self.budget - quiet, full), STARVED * min(self.budget, full))
        return quiet, room, max(1.0, room / self.work) if self.work > 0 else 1.0

    def _parts(self, room: float | None) -> list[list[_Part]]:
        """(weight, own work, steps) of every bin. `room`: seconds of a step that prompts may have;
        None for as many as their chunks take."""
        return [
            [
                (weight, work, chunks if room is None else max(1.0, work / room))
                for weight, work, chunks in bins
            ]
            for bins in self._bins
        ]

    def _read(
        self, servers: int, rate: float, overhead: float, most: float, room: float | None
    ) -> Prefilling:
        """`overhead`: seconds of a step beside prompts; `most`: prompts that may share one."""
        if rate <= 0:
            return Prefilling((1.0,) * len(self._bins), 0.0, 0.0)
        parts = self._parts(room)
        attained: list[float] = []
        tail: list[FirstToken] = []
        weight = ttft = load = 0.0
        for place, group in enumerate(self.workload.classes):
            weight += group.weight
            wait, load = self._wait(
                parts[: place + 1], servers, rate * weight, overhead, most
            )
            good = 0.0
            for share, work, steps in parts[place]:
                own = work + overhead * steps
                good += share * wait.within(group.ttft - own)
                ttft += share * (own + wait.mean)
                tail.append(FirstToken(share, own, wait))
            attained.append(good / group.weight)
        return Prefilling(tuple(attained), ttft, load, tuple(tail))

    def _wait(
        self,
        parts: Sequence[Sequence[_Part]],
        servers: int,
        rate: float,
        overhead: float,
        most: float,
    ) -> tuple[Waiting, float]:
        """The wait and the load of these requests, whose rate together is `rate`."""
        total = first = second = steps_first = cross = steps_second = 0.0
        for bins in parts:
            for weight, work, steps in bins:
                total += weight
                first += weight * work
                second += weight * work * work
                steps_first += weight * steps
                cross += weight * work * steps
                steps_second += weight * steps * steps
        shared = 1.0
        while True:
            part = overhead / shared
            mean = (first + part * steps_first) / total
            square = (second + part * (2 * cross + part * steps_second)) / total
            load = rate * mean / servers
            scv = max(0.0, square / (mean * mean) - 1.0) if mean > 0 else 0.0
            wait = waiting(servers, rate, mean, scv, self.workload.burstiness)
            if shared >= most:
                return wait, load
            # Who waits shares steps; a step is shared by as many as wait for one worker.
            if load >= 1.0:
                shared = min(most, 2.0 * shared)
            elif 1.0 + rate * wait.mean / servers > shared * _STEP:
                shared = min(most, shared * _STEP)
            else:
                return wait, load

    def _written(
        self, servers: int, rate: float, batch: float, itl: float, moved: float
    ) -> Decoding:
        workload = self.workload
        most = batch * servers
        # Beyond Poisson, because each takes longer the more there are.
        swing = (self.quiet(batch) / self.base if self.base > 0 else 1.0) * (
            (1.0 + workload.burstiness) / 2
        )
        deviation = math.sqrt(most * swing)
        attained = []
        for group in workload.classes:
            if group.streaming <= 0 or group.itl == math.inf:
                attained.append(1.0)
                continue
            late = moved * self.handoff / max(1.0, workload.gaps)
            limit = min(group.itl, self.budget if group.itl == workload.itl else group.itl) - late
            if self.sequence > 0:
                bound = (limit - self.base) / self.sequence * servers
                kept = normal_below(bound, most, deviation * math.sqrt(OWN_AVERAGE))
            else:
                kept = 1.0 if limit >= self.base else 0.0
            silent = 1.0 - group.streaming / group.weight
            attained.append(silent + (1.0 - silent) * kept)
        fits = normal_below(self.slots * servers + 0.5, most, deviation)
        load = rate / (servers * self.decode_rate)
        own = self.sequence * deviation * math.sqrt(OWN_AVERAGE) / servers
        exposed = moved * self.handoff / max(1.0, workload.gaps)
        tail = Between(1.0, itl + exposed, own)
        return Decoding(tuple(attained), itl, batch, fits, load, (tail,))

"""What clients ask for: kinds of requests and conversations, and when they come. Seeded, so that
every policy is measured on the same requests.

| kind | prompt | output | shares |
|---|---|---|---|
| chat | 60 to 600 | 150 | nothing |
| conversation | turns of 150, history up to 4k | 180 | its own history |
| completion | 1k to 3k of code | 30 | the files at its head |
| summary | 8k | 200 | nothing |
| agent | 2k of instructions, 500 a turn | 80 | instructions among all, its history |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import heappop, heappush
from itertools import count
from random import Random

import numpy as np

from baton.bench.simulator.client import Arrival, output_tokens
from baton.bench.simulator.machine import Machine
from baton.protocol.curves import StepShape
from baton.protocol.records import Targets

VOCABULARY = 30_000
MAX_TOKENS = 1024
"""What clients allow; nearly all answers are shorter."""
LONGEST = 16_384
"""Tokens of a prompt."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session, `after` seconds after the one before."""

    after: float
    new: int
    """Prompt tokens that are new; all before them is the history."""
    output: int


@dataclass(frozen=True, slots=True)
class Kind:
    """`session(rng)` gives what its sessions share at their head, as (seed, tokens), and turns."""

    name: str
    session: Callable[[Random], tuple[tuple[tuple[int, int], ...], list[Turn]]]
    turns: float
    """Of a session, on average."""
    prompt: int
    """Uncached tokens of a typical request: targets are made for it."""
    output: int
    """Tokens, on average."""
    lane: str = "interactive"


def _around(rng: Random, median: float, low: float, high: float, spread: float = 0.5) -> int:
    """Lognormal, within bounds."""
    return int(min(high, max(low, median * math.exp(rng.gauss(0.0, spread)))))


def _chat(rng: Random) -> tuple[tuple[tuple[int, int], ...], list[Turn]]:
    return (), [Turn(0.0, _around(rng, 200, 60, 600), _around(rng, 130, 8, 600))]


def _conversation(rng: Random) -> tuple[tuple[tuple[int, int], ...], list[Turn]]:
    first = Turn(0.0, _around(rng, 700, 100, 2000), _around(rng, 160, 8, 600))
    more = [
        Turn(rng.expovariate(1 / 4.0) + 2.0, _around(rng, 120, 10, 800),
             _around(rng, 160, 8, 600))
        for _ in range(rng.randrange(2, 8))
    ]
    return ((1, 64),), [first, *more]


def _completion(rng: Random) -> tuple[tuple[tuple[int, int], ...], list[Turn]]:
    shared = (100 + rng.randrange(12), _around(rng, 900, 300, 2000))
    shared = (shared[0], shared[1] // 256 * 256)
    return (shared,), [Turn(0.0, _around(rng, 700, 100, 2000), _around(rng, 24, 4, 96))]


def _summary(rng: Random) -> tuple[tuple[tuple[int, int], ...], list[Turn]]:
    return (), [Turn(0.0, _around(rng, 8000, 4000, 12_000, 0.25), _around(rng, 190, 60, 500))]


def _agent(rng: Random) -> tuple[tuple[tuple[int, int], ...], list[Turn]]:
    # A few kinds of agents, some much more frequent than others.
    of = min(7, int(rng.expovariate(0.6)))
    turns = [
        Turn(0.0 if n == 0 else rng.expovariate(1 / 1.5) + 1.5, _around(rng, 450, 60, 1500),
             _around(rng, 70, 8, 300))
        for n in range(rng.randrange(3, 9))
    ]
    return ((200 + of, 2048),), turns


KINDS = {
    kind.name: kind
    for kind in (
        Kind("chat", _chat, 1.0, 200, 150),
        Kind("conversation", _conversation, 5.5, 700, 180),
        Kind("completion", _completion, 1.0, 1200, 28),
        Kind("summary", _summary, 1.0, 8000, 200),
        Kind("agent", _agent, 5.5, 800, 80),
    )
}


def targets_for(machine: Machine, prompt: int) -> Targets:
    """What an operator of such machines would ask for: some times what a typical request takes
    alone."""
    alone = machine.curve.prefill_seconds(prompt, 0, machine.limits.prefill_chunk)
    step = machine.curve.seconds(StepShape.decodes(1, prompt))
    return Targets(ttft=round(4 * alone + 10 * step, 3), itl=round(2.5 * step, 4))


# -- when they come --------------------------------------------------------------------------


def times(rng: Random, rate: float, start: float, end: float, variation: float = 1.0
          ) -> Iterator[float]:
    """Arrivals within [start, end), `rate` per second. `variation`: standard deviation of the
    intervals over their mean; 1 is Poisson, more is burstier."""
    shape = 1 / variation**2
    now = start
    while (now := now + rng.gammavariate(shape, 1 / (shape * rate))) < end:
        yield now


@dataclass(frozen=True, slots=True)
class Part:
    """Requests of one kind, `rate` per second on average, within [start, end)."""

    kind: str
    rate: float
    start: float
    end: float
    variation: float = 1.0


def arrivals(
    parts: Sequence[Part], machine: Machine, seed: int, *, targets: Targets | None = None
) -> Iterator[Arrival]:
    """In the order of their times. A session's later turns come after its part's end, too, up to
    the last `end` of all. `targets`: for all; otherwise those of each kind."""
    last = max(part.end for part in parts)
    waiting: list[tuple[float, int, Arrival]] = []
    number = count()
    for index, part in enumerate(parts):
        kind = KINDS[part.kind]
        wanted = targets or targets_for(machine, kind.prompt)
        rng = Random(f"{seed} {index} {part.kind}")
        for start in times(rng, part.rate / kind.turns, part.start, part.end, part.variation):
            for arrival in _session(kind, rng, start, wanted):
                if arrival.at < last:
                    heappush(waiting, (arrival.at, next(number), arrival))
    while waiting:
        yield heappop(waiting)[2]


def _session(kind: Kind, rng: Random, start: float, targets: Targets) -> Iterator[Arrival]:
    shared, turns = kind.session(rng)
    name = f"{kind.name}-{rng.getrandbits(40):x}"
    segments: tuple[Callable[[], bytes], ...] = tuple(
        _tokens_of(seed, tokens) for seed, tokens in shared
    )
    length, at = sum(tokens for _, tokens in shared), start
    for turn in turns:
        at += turn.after
        if length + turn.new > LONGEST:
            return
        segments = (*segments, _tokens_of(rng.getrandbits(40) + 1000, turn.new))
        arrival = Arrival(
            at=at,
            prompt=_joined(segments),
            length=turn.output + 1,
            limit=MAX_TOKENS,
            noise=rng.getrandbits(32),
            kind=kind.name,
            lane=kind.lane,
            targets=targets,
            session=name,
        )
        yield arrival
        segments = (*segments, _answer_of(arrival))
        length += turn.new + turn.output


def in_lane(stream: Iterator[Arrival], lane: str, targets: Targets) -> Iterator[Arrival]:
    """The same requests in another lane."""
    for arrival in stream:
        yield replace(arrival, lane=lane, targets=targets)


# -- tokens ----------------------------------------------------------------------------------


def _joined(segments: tuple[Callable[[], bytes], ...]) -> Callable[[], bytes]:
    return lambda: b"".join(segment() for segment in segments)


def _tokens_of(seed: int, tokens: int) -> Callable[[], bytes]:
    return lambda: random_tokens(seed, tokens)


def _answer_of(arrival: Arrival) -> Callable[[], bytes]:
    return lambda: output_tokens(arrival)


@lru_cache(maxsize=4096)
def random_tokens(seed: int, tokens: int) -> bytes:
    """Packed; the same for equal arguments."""
    drawn = np.random.default_rng(seed).integers(3, VOCABULARY, tokens, dtype="<i4")
    return drawn.tobytes()

"""The requests of a workload, in the order of their times. Seeded, so that everything is measured
on the same requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random

from baton.bench.workloads.arrival import Arrival, output_tokens
from baton.bench.workloads.named import kind_of
from baton.bench.workloads.processes import times
from baton.bench.workloads.sessions import LONGEST, MAX_TOKENS, Kind
from baton.bench.workloads.tokens import VOCABULARY, random_tokens
from baton.bench.workloads.workload import Part
from baton.protocol.records import Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How requests are cut to a model."""

    longest: int = LONGEST
    """Tokens of a prompt: a session ends before one that is longer."""
    max_tokens: int = MAX_TOKENS
    """Output tokens that clients allow, and the most of any answer."""
    lengths: float = 1.0
    """Prompts and answers are so many times as long: for small models."""
    vocabulary: int = VOCABULARY

    def scaled(self, tokens: int) -> int:
        return tokens if self.lengths == 1.0 else max(1, round(tokens * self.lengths))


def arrivals(
    parts: Sequence[Part],
    seed: int,
    targets: Callable[[Kind], Targets] = lambda kind: Targets(),
    fit: Fit | None = None,
) -> Iterator[Arrival]:
    """In the order of their times. A session's later turns come after its part's end, too, up to
    the last `end` of all. `targets`: of each kind."""
    fit = fit or Fit()
    last = max(part.end for part in parts)
    waiting: list[tuple[float, int, Arrival]] = []
    number = count()
    for index, part in enumerate(parts):
        kind = kind_of(part.kind)
        wanted = targets(kind)
        rng = Random(f"{seed} {index} {kind.draws or kind.name}")
        last_rate = None if part.last_rate is None else part.last_rate / kind.turns
        for start in times(rng, part.rate / kind.turns, part.start, part.end, part.variation,
                           last_rate):
            for arrival in _session(kind, rng, start, wanted, fit):
                if arrival.at < last:
                    heappush(waiting, (arrival.at, next(number), arrival))
    while waiting:
        yield heappop(waiting)[2]


def _session(
    kind: Kind, rng: Random, start: float, targets: Targets, fit: Fit
) -> Iterator[Arrival]:
    shared, turns = kind.session(rng)
    name = f"{kind.name}-{rng.getrandbits(40):x}"
    heads = [(seed, fit.scaled(tokens)) for seed, tokens in shared]
    segments: tuple[Callable[[], bytes], ...] = tuple(
        _tokens_of(seed, tokens, fit) for seed, tokens in heads
    )
    length, at = sum(tokens for _, tokens in heads), start
    for turn in turns:
        at += turn.after
        new, output = fit.scaled(turn.new), min(fit.scaled(turn.output), fit.max_tokens - 1)
        if length + new > fit.longest:
            return
        segments = (*segments, _tokens_of(rng.getrandbits(40) + 1000, new, fit))
        arrival = Arrival(
            at=at,
            prompt=_joined(segments),
            length=output + 1,
            limit=fit.max_tokens,
            noise=rng.getrandbits(32),
            kind=kind.name,
            lane=kind.lane,
            targets=targets,
            session=name,
        )
        yield arrival
        segments = (*segments, _answer_of(arrival))
        length += new + output


def _joined(segments: tuple[Callable[[], bytes], ...]) -> Callable[[], bytes]:
    return lambda: b"".join(segment() for segment in segments)


def _tokens_of(seed: int, tokens: int, fit: Fit) -> Callable[[], bytes]:
    return lambda: random_tokens(seed, tokens, fit.vocabulary)


def _answer_of(arrival: Arrival) -> Callable[[], bytes]:
    return lambda: output_tokens(arrival)

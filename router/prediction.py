"""What will become of a request on given workers: seconds to its first token, between tokens, and
what others lose. Pure: `now` is on the clock of the workers' models.

    remote   queue at P, its chunks there; then the hand-off, of which the last chunk cannot be
             hidden, delays the second token; steps of D
    local    queue at D, chunks as its decodes allow; steps of D

Everything is what the curves say times what the worker's latencies have taught (`Correction`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from baton.router.candidates import Candidate, RequestFacts


class Prediction(msgspec.Struct, frozen=True):
    """Of a request that is dispatched now. Seconds."""

    ttft: float
    """From now to its first token, at the router."""
    queue: float
    """Of this, waiting for prompts ahead of it."""
    prefill: float
    """And computing what is not cached."""
    exposed: float
    """From the first token to when decoding can go on: of the hand-off, what is not hidden."""
    itl: float
    """Between its tokens, on average, the hand-off included."""
    itl_others: float
    """Between those of the requests that decode there, with it."""
    work: float
    """What it adds to the queue of the worker that computes its prompt."""
    step: float = 0.0
    """Of `itl`, without the hand-off."""
    transfer: float = 0.0
    """Of `exposed`, what the link takes; the rest is what was seen beyond it."""
    harm: float = 0.0
    """What others lose by it, all together."""
    measured: bool = True
    """Whether the speeds of its workers are known; else seconds mean nothing."""
    link_measured: bool = True
    """Whether that of the link is; else nothing is known of `exposed` beyond what was seen."""


def prefill_seconds(facts: RequestFacts, worker: Candidate) -> float:
    """To compute what this worker has not cached, once it is begun, by its curve."""
    cached = facts.held.get(worker.identity, 0) * facts.block_size
    return worker.model.prefill(facts.tokens, cached)[0]


def prefill_work(facts: RequestFacts, candidates: Iterable[Candidate]) -> float:
    """Seconds that its prompt takes where it takes least, if nobody decoded there: so it says the
    same of a prompt whatever workers do. 0 without workers. `facts` may leave out what is cached:
    then it is all of it."""
    return min((
        c.model.alone(facts.tokens, facts.held.get(c.identity, 0) * facts.block_size)
        for c in readers(facts, candidates)
    ), default=0.0)


def outlook(
    facts: RequestFacts, candidates: Iterable[Candidate], work_ahead: float, now: float
) -> float | None:
    """Seconds to its first token if it is queued now, behind `work_ahead` seconds of prompts that
    wait in the router (as `prefill_work` counts them). None when no worker's speed is known.

    A worker does as much of this work in a second as the chunks allow that its decodes leave."""
    pool = [c for c in readers(facts, candidates) if c.model.measured]
    if not pool:
        return None
    fastest = min(c.model.rate_alone for c in pool)
    capacity = waiting = 0.0
    best = own = math.inf
    for worker in pool:
        model = worker.model
        queue, takes = model.queue(now), prefill_seconds(facts, worker)
        share = fastest / model.rate if model.rate else 1.0
        capacity += share
        waiting += queue * share
        best = min(best, model.first_token(queue, takes))
        own = min(own, model.first_token(0.0, takes))
    return max(best if work_ahead <= 0 else own, (waiting + work_ahead) / capacity + own)


def room_in(candidates: Iterable[Candidate], now: float) -> float | None:
    """Seconds until the first of those that have enough prompts can do with another. None when
    none of them has."""
    waits = [
        c.model.queue(now) - c.model.horizon for c in candidates if c.model.measured
    ]
    return min((wait for wait in waits if wait > 0), default=None)


def prompt_pool(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The workers whose role it is to compute prompts; all, if there is none."""
    everyone = list(candidates)
    return [c for c in everyone if c.role != "decode"] or everyone


def readers(facts: RequestFacts, candidates: Iterable[Candidate]) -> list[Candidate]:
    """The workers that compute prompts when that is best: those that decode as well, in what their
    intervals leave, unless they have to keep to their role."""
    everyone = list(candidates)
    cross = not facts.strict_roles
    return [
        c for c in everyone if c.role != "decode" or (cross and c.model.measured)
    ] or everyone

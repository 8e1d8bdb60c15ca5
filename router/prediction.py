"""What will become of a request on given workers: seconds to its first token, between tokens, and
what others lose. Pure: `now` is on the clock of the workers' models.

    remote   queue at P, its chunks there; then the hand-off, of which the last chunk cannot be
             hidden, delays the second token; steps of D
    local    queue at D, chunks as its decodes allow; steps of D

Everything is what the curves say times what the worker's latencies have taught (`Correction`).
"""

from __future__ import annotations

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
    """Seconds of work on the worker where its prompt takes least; 0 without workers. `facts` may
    leave out what is cached: then it is all of it."""
    return min((prefill_seconds(facts, c) for c in prompt_pool(candidates)), default=0.0)


def outlook(
    facts: RequestFacts, candidates: Iterable[Candidate], work_ahead: float, now: float
) -> float | None:
    """Seconds to its first token if it is queued now, behind `work_ahead` seconds of prompts that
    wait in the router (as `prefill_work` counts them). None when no worker's speed is known."""
    pool = [c for c in prompt_pool(candidates) if c.model.measured]
    if not pool:
        return None
    shares = [_share_for_prompts(c) for c in pool]
    capacity = sum(shares)
    if all(c.role != "prefill" for c in pool):
        # What they decode makes the work longer already, as it is counted. With workers for
        # prompts it is counted where nobody decodes, until those do that as well.
        capacity /= max(shares)
    waiting = sum(c.model.queue(now) for c in pool)
    best = min(
        c.model.first_token(c.model.queue(now), prefill_seconds(facts, c)) for c in pool
    )
    own = min(c.model.first_token(0.0, prefill_seconds(facts, c)) for c in pool)
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


def _share_for_prompts(worker: Candidate) -> float:
    """Of its steps' time, what those that decode leave."""
    model = worker.model
    return max(0.05, 1 - model.step / model.chunk_step) if model.decoding else 1.0

"""When it is better to let a request wait than to send it. Pure.

A decision takes the way that costs everyone least. Where every way makes the intervals of those
that decode too long, or its own, it may cost less to wait for one of them to end. Likewise it is
not sent to where its first token will come too late, as long as another worker may have time for
it. If the wait takes longer than its patience, admission says so. Otherwise more load than there is
room for would make everybody's intervals too long, and serve nobody well. Targets that nobody asked
for are not waited for, but lighter lanes leave room for heavier ones in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from baton.protocol.curves import StepShape
from baton.router.candidates import Candidate, RequestFacts
from baton.router.policy import Decision
from baton.router.prediction import prefill_seconds, prompt_pool

MARGIN = 0.9
"""Of a target for intervals that may be predicted: who joins later makes them longer, and so do
those that are there already, for they grow."""


SPARE = 0.5
"""Of the intervals' target of those that matter more, what lighter lanes leave for them: to decode,
and for chunks of their prompts beside what decodes there."""


LIKELY = 0.5
"""Targets of others that are expected to be missed."""


def better_to_wait(
    decision: Decision,
    facts: RequestFacts,
    candidates: Iterable[Candidate],
    spare: float | None = None,
) -> bool:
    """Not for what had begun, nor where nobody decodes, for whose end one could wait. `spare`: the
    target for intervals, in seconds, of requests that matter more and may come at any time."""
    predicted = decision.prediction
    if predicted is None or not predicted.measured or facts.recompute:
        return False
    candidates = list(candidates)
    if facts.firm and facts.due_in is not None and predicted.ttft > facts.due_in:
        if facts.due_in >= _soonest(facts, candidates):
            return True
        if decision.missed - 1 > LIKELY:  # it is late anyway, and would make others late
            return True
    if facts.remaining <= 1:
        return False
    worker = next((c for c in candidates if c.identity == decision.decode), None)
    if worker is None or worker.model.decoding == 0:
        return False
    model = worker.model
    alone = model.speed.seconds(StepShape.decodes(1, int(facts.tokens + facts.output / 2)))
    alone *= model.correction.decode
    return any(
        alone <= MARGIN * target < interval
        for target, interval in (
            (model.itl, predicted.itl_others),
            (facts.itl if facts.firm else None, predicted.step),
            (None if spare is None else (1 - SPARE) / MARGIN * spare, predicted.itl_others),
        )
        if target is not None
    )


def _soonest(facts: RequestFacts, candidates: Iterable[Candidate]) -> float:
    """Seconds to its first token at a worker for prompts that had nothing else to do."""
    return min(
        (
            c.model.first_token(0.0, prefill_seconds(facts, c))
            for c in prompt_pool(candidates) if c.model.measured
        ),
        default=math.inf,
    )

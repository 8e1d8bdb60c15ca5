"""When it is better to let a request wait than to break intervals with it. Pure.

A decision takes the way that costs everyone least. Where every way makes the intervals of those
that decode too long, or its own, it may cost less to wait for one of them to end; and if that takes
longer than the request's patience, admission says so. Otherwise more load than there is room for
would make everybody's intervals too long, and serve nobody well.
"""

from __future__ import annotations

from collections.abc import Iterable

from baton.protocol.curves import StepShape
from baton.router.candidates import Candidate, RequestFacts
from baton.router.policy import Decision

MARGIN = 0.9
"""Of a target for intervals that may be predicted: who joins later makes them longer, and so do
those that are there already, for they grow."""


SPARE = 0.5
"""Of the intervals' target of those that matter more, what lighter lanes leave for them: to decode,
and for chunks of their prompts beside what decodes there."""


def better_to_wait(
    decision: Decision,
    facts: RequestFacts,
    candidates: Iterable[Candidate],
    spare: float | None = None,
) -> bool:
    """Not for what had begun, nor where nobody decodes, for whose end one could wait. `spare`: the
    target for intervals, in seconds, of requests that matter more and may come at any time."""
    predicted = decision.prediction
    if predicted is None or not predicted.measured or facts.recompute or facts.remaining <= 1:
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
            (facts.itl, predicted.step),
            (None if spare is None else (1 - SPARE) / MARGIN * spare, predicted.itl_others),
        )
        if target is not None
    )

"""Which sequence goes before which. Pure: time is passed in.

Those with a due time (`Request.due_in`) go by it within their priority, and change rank twice at
most:

    in time  --cannot make it any more-->  late  --AGEING seconds later-->  aged
                                     behind those that can      before everything

What is late has lost its target already, so it does not cost others theirs; but it is overtaken
for AGEING seconds and no longer. What decodes keeps the rank it had at its first token. Whether a
prompt can still make it is judged by the worker's curve, as if it had the worker to itself. A
prompt whose beginning others wait for takes on the best of their ranks.

Those without go by lane, priority and arrival, and never change.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush

from baton.engine.limits import SchedulerLimits
from baton.engine.prefix_cache import PrefixCache
from baton.engine.sequence import Rank, Sequence
from baton.engine.sequence_table import RUNNING, WAITING, SequenceTable
from baton.engine.step_budget import StepBudgets
from baton.protocol.ids import RequestKey

AGEING = 5.0
"""Seconds for which those that can make it go before one that is late."""
RECHECKED = 8
"""Sequences that are judged in one step: their prompts may have to be hashed."""


class Order:
    def __init__(
        self,
        table: SequenceTable,
        cache: PrefixCache,
        budgets: StepBudgets,
        limits: SchedulerLimits,
    ) -> None:
        self._table = table
        self._cache = cache
        self._budgets = budgets
        self._chunk = min(limits.prefill_chunk, limits.max_batch_tokens)
        self._watched: list[tuple[float, int, RequestKey]] = []
        """A heap: when to look at a sequence again, its arrival, its key."""

    def watch(self, seq: Sequence) -> None:
        """One that has just begun to wait."""
        if seq.due is not None:
            self._look_at(seq, seq.due - self._seconds(seq, 0))

    @property
    def next_look(self) -> float:
        """Until then `advance` does nothing, if nothing comes."""
        return self._watched[0][0] if self._watched else math.inf

    def advance(self, now: float) -> None:
        """Before a step at `now`: ranks are what they should be."""
        watched = self._watched
        for _ in range(RECHECKED):
            if not watched or watched[0][0] > now:
                return
            _, arrival, key = heappop(watched)
            seq = self._table.get(key)
            if seq is None or seq.rank[-1] != arrival or seq.state not in (WAITING, RUNNING):
                continue
            if _is_late(seq):
                self._table.change_rank(seq, _aged(seq))
            elif not seq.reported:
                self._judge(seq, now)

    def _judge(self, seq: Sequence, now: float) -> None:
        assert seq.due is not None
        begin_by = seq.due - self._seconds(seq, self._computed(seq))
        if begin_by > now:
            self._look_at(seq, begin_by)
        else:
            self._table.change_rank(seq, _late(seq))
            self._look_at(seq, now + AGEING)

    def _look_at(self, seq: Sequence, when: float) -> None:
        heappush(self._watched, (when, seq.rank[-1], seq.key))

    def _computed(self, seq: Sequence) -> int:
        """Tokens that it has, or would find in the cache."""
        if seq.state is RUNNING or seq.prompt_logprobs is not None:
            return seq.num_computed
        return self._cache.tokens_in(self._cache.match(seq, len(seq.tokens) - 1))

    def _seconds(self, seq: Sequence, computed: int) -> float:
        curve = self._budgets.curve
        if curve is None:
            return 0.0
        return curve.prefill_seconds(len(seq.tokens), computed, self._chunk)


def is_aged(seq: Sequence) -> bool:
    return not seq.rank[0]


def _is_late(seq: Sequence) -> bool:
    return seq.rank[3]


def _late(seq: Sequence) -> Rank:
    _, _, priority, _, due, arrival = seq.rank
    return (True, False, priority, True, due, arrival)


def _aged(seq: Sequence) -> Rank:
    return (False, False, 0, False, seq.rank[4], seq.rank[5])

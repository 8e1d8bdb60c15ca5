"""Which prompts a step computes beside its decodes, and how much of each. Pure.

Prompts go by rank (`order.py`), those that run and those that wait in one line; without due times
what runs goes first. Down that line the step's budget is spent. What waits is admitted with the
blocks of its whole prompt, and the first that lacks them is not overtaken by those behind it.

No prompt has the worker to itself while others wait. One that needs many steps leaves half of
each to shorter ones behind it, as far as they want it; and one that needs more than its share of
the KV pool is overtaken by smaller ones, until it has aged. Both hold for prompts with a due time.
And what is due far later than the first of a step is left for another one: it loses nothing by
that, while all in a step have to wait for all of it. A step of such prompts alone is a short one
while others may come (`haste.py`).
"""

from __future__ import annotations

import math
from itertools import chain, islice

from baton.engine.batch import BatchItem
from baton.engine.haste import FAR, Haste
from baton.engine.limits import SchedulerLimits
from baton.engine.order import is_aged
from baton.engine.prefix_cache import PrefixCache
from baton.engine.room import Room
from baton.engine.sequence import Sequence
from baton.engine.sequence_table import RUNNING, SequenceTable
from baton.engine.step_budget import StepBudget, StepBudgets

_LONG = 4
"""Steps that a prompt needs to be one that leaves half of them to shorter ones."""
_LOOKED_AT = 64

class StepFilling:
    """`role` may be changed at any time."""

    def __init__(
        self,
        table: SequenceTable,
        cache: PrefixCache,
        room: Room,
        limits: SchedulerLimits,
        block_size: int,
        role: str,
    ) -> None:
        self.role = role
        self.budgets = StepBudgets(limits, block_size)
        self.haste = Haste()
        self._table = table
        self._cache = cache
        self._room = room

    def fill(
        self, batch: list[BatchItem], prefills: list[Sequence], now: float, *, admit: bool
    ) -> list[Sequence]:
        """Add chunks to the `batch` of decodes: of `prefills`, which run, and with `admit` of those
        that wait. Those that are admitted with it are returned."""
        line = _Line(prefills, self._table.waiting, admit)
        head = line.first()
        longest = math.inf
        if head is not None and head.due is not None:
            longest = self.haste.longest(head.due - now, now)
        budget = self.budgets.next(self.role, batch, now, longest)
        admitted: list[Sequence] = []
        sharing: Sequence | None = None
        first: float | None = None
        while budget.tokens > 0:
            seq = line.first()
            if seq is None or (sharing is None and _far_behind(first, seq)):
                break
            if seq.state is RUNNING:
                size = budget.chunk(seq.num_computed, seq.num_uncomputed)
                if size == 0:
                    break
                line.turn += 1
            else:
                matched = self._matched(seq)
                if matched is None or self._takes_too_much(seq, now):
                    line.place += 1
                    continue
                fresh = self._room.blocks_for(len(seq.tokens)) - len(matched)
                if not self._room.has(matched, fresh):
                    self._table.blocked = seq
                    line.admit = False
                    continue
                past = self._cache.tokens_in(matched)
                size = budget.chunk(past, len(seq.tokens) - past)
                if size == 0:
                    break
                self._table.admit_waiting(seq, matched, fresh)
                admitted.append(seq)
            first = seq.due if first is None else first
            share = sharing is None and not budget.scarce and _needs_many(seq, size)
            if share and line.has_shorter(seq):
                sharing = seq
                budget.keep_half()
            else:
                _add_chunk(batch, seq, size, budget)
        if sharing is not None:
            budget.give_back()
            size = budget.chunk(sharing.num_computed, sharing.num_uncomputed)
            if size > 0:
                _add_chunk(batch, sharing, size, budget)
        return admitted

    def _takes_too_much(self, seq: Sequence, now: float) -> bool:
        if not self._room.gives_way(seq, now):
            return False
        return not all(map(self._room.is_oversized, self._table.waiting))

    def _matched(self, seq: Sequence) -> list[int] | None:
        """The blocks of its prompt that are there; None when somebody is computing more."""
        if self._cache.still_coming(seq):
            self._hurry(seq)
            return None
        if seq.prompt_logprobs is not None:
            return []
        # At least one token is left to compute, or there would be no logits.
        matched = self._cache.match(seq, len(seq.tokens) - 1)
        if self._cache.is_coming(seq, len(matched)):
            self._hurry(seq)
            return None
        return matched

    def _hurry(self, seq: Sequence) -> None:
        """Whoever computes what it waits for ranks no worse, from the next step on: it would wait
        for all that come between them."""
        other = self._cache.computed_by(seq)
        if seq.due is not None and other.rank[:5] > seq.rank[:5]:
            self._table.change_rank(other, (*seq.rank[:5], other.rank[5]))


class _Line:
    """`prefills` and `waiting`, each sorted by rank, as one; what is admitted leaves `waiting`
    meanwhile."""

    def __init__(self, prefills: list[Sequence], waiting: list[Sequence], admit: bool) -> None:
        self.prefills = prefills
        self.waiting = waiting
        self.admit = admit
        self.turn = 0
        """Of `prefills`, so many are done with."""
        self.place = 0
        """Of `waiting`, so many were passed over."""

    def first(self) -> Sequence | None:
        running = self.prefills[self.turn] if self.turn < len(self.prefills) else None
        if not self.admit or self.place == len(self.waiting):
            return running
        waits = self.waiting[self.place]
        if running is None or (waits.due is not None and waits.rank < running.rank):
            return waits
        return running

    def has_shorter(self, seq: Sequence) -> bool:
        """Whether there is one behind the first with at most half as much to compute."""
        half = seq.num_uncomputed // 2
        waiting = islice(self.waiting, self.place, self.place + _LOOKED_AT) if self.admit else ()
        return any(
            other.num_uncomputed <= half
            for other in chain(islice(self.prefills, self.turn, None), waiting)
        )


def _far_behind(due: float | None, seq: Sequence) -> bool:
    return due is not None and seq.due is not None and seq.due > due + FAR and not is_aged(seq)


def _needs_many(seq: Sequence, size: int) -> bool:
    return seq.due is not None and seq.num_uncomputed > _LONG * size


def _add_chunk(batch: list[BatchItem], seq: Sequence, size: int, budget: StepBudget) -> None:
    budget.spend(seq.num_computed, size)
    sample = size == seq.num_uncomputed and seq.request.sampling.max_tokens > 0
    batch.append(BatchItem(seq, size, sample))

"""Which prompts a step computes beside its decodes, and how much of each. Pure.

Prompts that run already go first, then those that wait, as far as the step's budget goes. What
waits is admitted with the blocks of its whole prompt, and the first that lacks them is not
overtaken by those behind it.
"""

from __future__ import annotations

from baton.engine.batch import BatchItem
from baton.engine.limits import SchedulerLimits
from baton.engine.prefix_cache import PrefixCache
from baton.engine.room import Room
from baton.engine.sequence import Sequence
from baton.engine.sequence_table import SequenceTable
from baton.engine.step_budget import StepBudget, StepBudgets


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
        self._table = table
        self._cache = cache
        self._room = room

    def fill(
        self, batch: list[BatchItem], prefills: list[Sequence], *, admit: bool
    ) -> list[Sequence]:
        """Add chunks to the `batch` of decodes: of `prefills`, which run, and with `admit` of those
        that wait. Those that are admitted with it are returned."""
        budget = self.budgets.next(self.role, batch)
        for seq in prefills:
            self._add_chunk(batch, seq, budget)
        return self._admit_waiting(batch, budget) if admit else []

    def _admit_waiting(self, batch: list[BatchItem], budget: StepBudget) -> list[Sequence]:
        admitted: list[Sequence] = []
        index = 0
        while budget.tokens > 0 and index < len(self._table.waiting):
            seq = self._table.waiting[index]
            matched = self._matched(seq)
            if matched is None:
                index += 1
                continue
            fresh = self._room.blocks_for(len(seq.tokens)) - len(matched)
            if not self._room.has(matched, fresh):
                self._table.blocked = seq
                break
            past = self._cache.tokens_in(matched)
            if budget.chunk(past, len(seq.tokens) - past) == 0:
                break
            self._table.admit_waiting(seq, matched, fresh)
            admitted.append(seq)
            self._add_chunk(batch, seq, budget)
        return admitted

    def _matched(self, seq: Sequence) -> list[int] | None:
        """The blocks of its prompt that are there; None when somebody is computing more."""
        if self._cache.still_coming(seq):
            return None
        if seq.prompt_logprobs is not None:
            return []
        # At least one token is left to compute, or there would be no logits.
        matched = self._cache.match(seq, len(seq.tokens) - 1)
        return None if self._cache.is_coming(seq, len(matched)) else matched

    def _add_chunk(self, batch: list[BatchItem], seq: Sequence, budget: StepBudget) -> None:
        left = seq.num_uncomputed
        size = budget.chunk(seq.num_computed, left)
        if size == 0:
            return
        budget.spend(seq.num_computed, size)
        sample = size == left and seq.request.sampling.max_tokens > 0
        batch.append(BatchItem(seq, size, sample))

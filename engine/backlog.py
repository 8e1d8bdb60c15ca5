"""What a worker has on its hands, and how long its prompts will take. Pure."""

from __future__ import annotations

import math

from baton.engine.commands import EngineLoad
from baton.engine.limits import SchedulerLimits
from baton.engine.sequence import Sequence
from baton.engine.sequence_table import SequenceTable
from baton.engine.step_budget import StepBudgets
from baton.protocol.curves import StepShape, attention_pairs
from baton.protocol.records import BlockCounts


class Backlog:
    def __init__(
        self, table: SequenceTable, budgets: StepBudgets, limits: SchedulerLimits
    ) -> None:
        self._table = table
        self._budgets = budgets
        self._limits = limits

    def load(
        self, role: str, blocks: BlockCounts, *, steps: int, preemptions: int
    ) -> EngineLoad:
        table = self._table
        decoding = context = 0
        prefills: list[Sequence] = []
        for seq in table.running:
            length = len(seq.tokens)
            if length - seq.num_computed == 1:
                decoding += 1
                context += length
            else:
                prefills.append(seq)
        tokens = table.waiting_tokens
        if prefills:
            tokens += sum(seq.num_uncomputed for seq in prefills)
        return EngineLoad(
            waiting=len(table.waiting),
            running=len(table.running),
            waiting_tokens=tokens,
            blocks=blocks,
            steps=steps,
            preemptions=preemptions,
            decoding=decoding,
            decode_context=context,
            backlog_seconds=self._seconds(role, StepShape.decodes(decoding, context), prefills,
                                          tokens) if tokens else 0.0,
        )

    def _seconds(
        self, role: str, decodes: StepShape, prefills: list[Sequence], tokens: int
    ) -> float | None:
        """Until `tokens`, those of `prefills` and of all that wait, are computed beside the
        decodes there are now, one prompt after the other. What the cache has of those that wait
        is not known yet, and counted. None without a curve."""
        curve = self._budgets.curve
        if curve is None:
            return None
        pairs = self._table.waiting_pairs + sum(
            attention_pairs(seq.num_uncomputed, seq.num_computed) for seq in prefills
        )
        prompts = len(prefills) + len(self._table.waiting)
        a_step, chunks = self._budgets.average(
            role, decodes, self._itl(decodes), past=pairs // tokens
        )
        steps = math.ceil(tokens / min(a_step, prompts * self._limits.prefill_chunk))
        return (
            steps * (curve.seconds(decodes) + curve.chunk * chunks)
            + curve.chunk * (prompts - 1)  # a step in which one ends and the next begins has both
            + curve.token * tokens
            + curve.pair * pairs
        )

    def _itl(self, decodes: StepShape) -> float:
        """Of all that runs: what is prefilled now decodes while the rest is."""
        if not decodes.decode_sequences:
            return math.inf
        return min([seq.itl for seq in self._table.running])

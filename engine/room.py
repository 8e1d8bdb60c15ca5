"""Whether a sequence fits: ever, and now. Pure."""

from __future__ import annotations

from baton.engine.block_pool import BlockPool
from baton.engine.limits import SchedulerLimits
from baton.engine.order import AGEING, is_aged
from baton.engine.sequence import Sequence
from baton.engine.sequence_table import SequenceTable


class Room:
    def __init__(
        self, pool: BlockPool, limits: SchedulerLimits, block_size: int, table: SequenceTable
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._block_size = block_size
        self._table = table

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_size)

    def has(self, matched: list[int], fresh: int, *, runs: bool = True) -> bool:
        """A slot for what `runs`, and blocks with one to spare for each sequence that goes on
        growing, so that what comes in is not thrown out by the next step."""
        slots = len(self._table.running) + self._table.num_reserved - self._table.num_loans
        if runs and slots >= self._limits.max_running:
            return False
        growing = sum(not seq.hold for seq in self._table.running)
        return self._pool.fits(matched, fresh, growing)

    def gives_way(self, seq: Sequence, now: float) -> bool:
        """Whether smaller ones may pass one that waits for blocks, or asks for some: it would take
        more than one sequence's share, and has not aged. (A reservation is not in a queue where it
        could: it is asked for again and again.)"""
        if seq.due is None or is_aged(seq) or now > seq.due + AGEING:
            return False
        return self.is_oversized(seq)

    def is_oversized(self, seq: Sequence) -> bool:
        """Whether it would take more than one sequence's share while others wait."""
        return self.blocks_for(len(seq.tokens)) > self._limits.kv_share * self._pool.num_blocks

    def misfit(self, seq: Sequence) -> str | None:
        """Why this worker could not run it even with nothing else to do; None if it could."""
        tokens, limit = len(seq.tokens), self._limits.max_model_len
        if tokens > limit:
            return f"the sequence has {tokens} tokens, the context holds {limit}"
        blocks = self.blocks_for(tokens)
        if blocks > self._pool.num_blocks:
            return (
                f"{tokens} tokens need {blocks} KV blocks of {self._block_size} tokens, "
                f"this worker has {self._pool.num_blocks}"
            )
        return None

"""Steps in which every running sequence gets its next token and nothing else happens. Pure.

Between two events a batch of decodes does the same again and again. Who knows the tokens before
they are drawn (the simulator) can take many such steps at once:

    schedule() -> batch, most() > 1     take(batch, tokens)      as so many times complete(batch)
                                                                 with schedule() in between

What is left is the same as after single steps, to the number of each block: blocks are taken and
named in the order in which single steps would have done it.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from operator import itemgetter

from baton.engine.batch import BatchItem
from baton.engine.block_pool import BlockPool, IntegrityError, Use
from baton.engine.prefix_cache import PrefixCache
from baton.engine.sequence import Sequence
from baton.engine.sequence_table import SequenceTable

_NAMES, _TAKES = 0, 1
"""What happens at a block's border, in the order of one step: its content is named after the step,
another is taken for the next one."""


class PlainSteps:
    def __init__(
        self, table: SequenceTable, pool: BlockPool, cache: PrefixCache, block_size: int,
        max_model_len: int,
    ) -> None:
        self._table = table
        self._pool = pool
        self._cache = cache
        self._block_size = block_size
        self._max_model_len = max_model_len

    def most(self, batch: Seq[BatchItem], limit: int) -> int:
        """So many steps from that of `batch` on are plain, if no command comes; at most `limit`.
        Stop ids are the caller's to know. 0 when this one is not."""
        if not batch or self._table.waiting or len(batch) != len(self._table.running):
            return 0
        most = limit
        for item in batch:
            seq = item.seq
            if item.num_tokens != 1 or not item.sample or not seq.reported or seq.hold:
                return 0
            length = len(seq.tokens)
            most = min(
                most,
                seq.request.sampling.max_tokens - 1 - (length - seq.prompt_len),
                self._max_model_len - 1 - length,
            )
        while most > 0 and self._blocks(batch, most) > self._pool.available:
            most //= 2  # the pool is nearly full: somebody will be preempted soon
        return max(0, most)

    def changes_cache(self, batch: Seq[BatchItem]) -> int:
        """After so many steps the first block is named, or taken."""
        size = self._block_size
        return min(
            min((item.seq.num_named + 1) * size, len(item.seq.block_ids) * size)
            - item.seq.num_computed
            for item in batch
        )

    def take(self, batch: Seq[BatchItem], tokens: Seq[list[int]], *, goes_on: bool) -> None:
        """All at once, as many steps as each of `batch` gets `tokens`, which are at most `most`.
        `goes_on`: another such step is begun. Nothing is told."""
        steps = len(tokens[0])
        borders: list[tuple[int, int, int, Sequence, int]] = []
        """(step, what, place in the batch, whose, its computed tokens then)"""
        size = self._block_size
        for place, (item, drawn) in enumerate(zip(batch, tokens, strict=True)):
            seq = item.seq
            before = seq.num_computed
            for full in range((seq.num_named + 1) * size, before + steps + 1, size):
                borders.append((full - before, _NAMES, place, seq, full))
            room = len(seq.block_ids) * size
            for full in range(room, before + steps + 1, size):
                if goes_on or full - before < steps:
                    borders.append((full - before, _TAKES, place, seq, full))
            seq.tokens.extend(drawn)
            seq.num_computed = before + steps
        if borders:
            self._cross(borders)

    def _cross(self, borders: list[tuple[int, int, int, Sequence, int]]) -> None:
        borders.sort(key=itemgetter(0, 1, 2))
        for _, what, _, seq, computed in borders:
            if what == _TAKES:
                self._grow(seq)
            else:
                after, seq.num_computed = seq.num_computed, computed
                self._cache.register(seq)
                seq.num_computed = after

    def _grow(self, seq: Sequence) -> None:
        blocks = self._pool.allocate(1, Use.ACTIVE)
        if blocks is None:
            raise IntegrityError(f"{seq.key} took more steps than there is room for")
        seq.block_ids.extend(blocks)

    def _blocks(self, batch: Seq[BatchItem], steps: int) -> int:
        """That so many steps take, the next one's included."""
        size = self._block_size
        return sum(
            max(0, -(-(len(item.seq.tokens) + steps) // size) - len(item.seq.block_ids))
            for item in batch
        )

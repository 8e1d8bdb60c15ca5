"""Blocks of the sender's layout, written into a message in the receiver's layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from baton.kvtransfer.memory import Blocks
from baton.kvtransfer.planner import Side, plan_copies
from baton.kvtransfer.transport import Bytes
from baton.protocol.kvlayout import KVLayout

_CACHED_PLANS = 64


@dataclass(frozen=True, slots=True)
class Cut:
    """What of the sender's blocks one message holds: from token `skip` of the first of them on,
    as much as fills `num_blocks` blocks of the receiver, or as there is."""

    skip: int
    num_blocks: int


class Converter:
    """From one layout to another that it can be mapped onto (ValueError otherwise). A plan is
    made once for each form of message, and carried out as one indexed copy of granules, the
    largest unit that all its spans are made of."""

    def __init__(self, source: KVLayout, destination: KVLayout) -> None:
        self.source = source
        self.destination = destination
        self._plans: dict[tuple[int, int, int], tuple[int, Any]] = {}
        self._gathered = np.empty(0, np.uint8)
        plan_copies(Side(source, ()), Side(destination, ()), 0)

    def message_bytes(self, cut: Cut) -> int:
        return cut.num_blocks * self.destination.block_bytes

    def gather(self, memory: Blocks, blocks: Sequence[int], cut: Cut, out: Bytes) -> None:
        """Fill `out` (`message_bytes`). What lies beyond the last token of `blocks` is zeros."""
        granule, index = self._plan(len(blocks), cut)
        size = len(blocks) * self.source.block_bytes
        # One granule of zeros behind the blocks, for all that they do not have.
        if len(self._gathered) < size + granule:
            self._gathered = np.empty(size + granule, np.uint8)
        gathered = self._gathered[: size + granule]
        memory.gather(blocks, gathered[:size])
        gathered[size:] = 0
        np.take(
            gathered.reshape(-1, granule), index, axis=0, out=out.reshape(-1, granule), mode="clip"
        )

    def _plan(self, num_source: int, cut: Cut) -> tuple[int, Any]:
        """Granule in bytes, and for each granule of the message its place in the gathered
        blocks."""
        key = (num_source, cut.skip, cut.num_blocks)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _CACHED_PLANS:
                self._plans.pop(next(iter(self._plans)))
            plan = self._plans[key] = self._make_plan(num_source, cut)
        return plan

    def _make_plan(self, num_source: int, cut: Cut) -> tuple[int, Any]:
        ours = Side(self.source, tuple(range(num_source)), cut.skip)
        theirs = Side(self.destination, tuple(range(cut.num_blocks)))
        spans = plan_copies(ours, theirs, min(ours.room, theirs.room))
        of_size, to_size = self.source.block_bytes, self.destination.block_bytes
        table = np.array(
            [
                (s.source_block * of_size + s.source_offset,
                 s.destination_block * to_size + s.destination_offset, s.length)
                for s in spans
            ],
            np.int64,
        ).reshape(-1, 3)  # fmt: skip
        granule = math.gcd(of_size, to_size, *np.unique(table).tolist())
        sources, targets, lengths = (table // granule).T
        index = np.full(cut.num_blocks * to_size // granule, num_source * of_size // granule)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        index[np.repeat(targets, lengths) + within] = np.repeat(sources, lengths) + within
        return granule, index

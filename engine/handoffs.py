"""The scheduler's part in hand-offs, apart from prefills that hold. Pure.

    ReserveBlocks --Reserved--> AdmitReserved   KV comes in, the sequence runs on it
                          \\---> Adopt           KV comes in for the prefix cache only (a loan)
    Park      --Progress--> Release             a decode stops, its KV goes to another worker
    PinCached --Progress--> Release             cached KV goes to another worker (a loan)

All take effect between steps. Between the arrow's ends the blocks are HELD, and `Release` ends
each of them in whatever state it is.
"""

from __future__ import annotations

from baton.engine.commands import (
    AdmitReserved,
    Adopt,
    Command,
    Event,
    Park,
    PinCached,
    Progress,
    Refused,
    ReserveBlocks,
    Reserved,
    SequenceFailed,
)
from baton.engine.prefix_cache import PrefixCache
from baton.engine.room import Room
from baton.engine.sequence import Sequence
from baton.engine.sequence_table import HELD, RESERVED, RUNNING, WAITING, SequenceTable
from baton.engine.stopping import finish_reason


class Handoffs:
    """`max_model_len`: where an admitted sequence ends at the latest, in tokens."""

    def __init__(
        self, table: SequenceTable, cache: PrefixCache, room: Room, max_model_len: int
    ) -> None:
        self._table = table
        self._cache = cache
        self._room = room
        self._max_model_len = max_model_len

    def apply(self, command: Command, now: float) -> Event | None:
        """Carry out one of the commands above; the answer to it, if it has one."""
        match command:
            case ReserveBlocks():
                return self._reserve(command, now)
            case AdmitReserved():
                return self._admit(command, now)
            case Adopt():
                self._adopt(command)
            case PinCached():
                return self._pin(command, now)
            case Park():
                return self._park(command)
        return None

    # -- KV comes in -------------------------------------------------------------------------

    def _reserve(self, command: ReserveBlocks, now: float) -> Event:
        request = command.request
        known = self._table.get(request.key)
        if known is not None and known.state is RESERVED:
            return _reserved(known)
        if known is not None:
            goes_on = known.state in (RUNNING, WAITING) and known.reported
            return _refused(known, "running" if goes_on else "duplicate")
        seq = self._table.create(request, now)
        if self._room.misfit(seq) is not None:
            return _refused(seq, "too_large")
        matched = self._cache.match(seq, len(seq.tokens))
        fresh = self._room.blocks_for(len(seq.tokens)) - len(matched)
        has_room = self._room.has(matched, fresh, runs=not command.loan)
        if not has_room or self._others_first(seq, now):
            return _refused(seq, "busy")
        self._table.add_reserved(seq, matched, fresh, loan=command.loan)
        return _reserved(seq)

    def _others_first(self, seq: Sequence, now: float) -> bool:
        """Whether prompts that wait here have more right to blocks than a reservation. That holds
        for what lacks some, but no request has more than its share of the pool while smaller ones
        want it: neither one that waits nor a reservation."""
        blocked, oversized = self._table.blocked, self._room.is_oversized
        if blocked is not None and not (self._room.gives_way(blocked, now) and not oversized(seq)):
            return True
        return self._room.gives_way(seq, now) and not all(map(oversized, self._table.waiting))

    def _admit(self, command: AdmitReserved, now: float) -> Event | None:
        seq = self._table.get(command.key)
        if seq is None or seq.state is not RESERVED:
            return Refused(command.key, "unknown")
        self._table.admit_reserved(seq)
        if not command.tokens:
            message = "a hand-off brought no token to go on from"
            self._table.forget(seq)
            return SequenceFailed(seq.key, "internal_error", message)
        seq.tokens.extend(command.tokens)
        seq.stream_from(now)
        seq.reported = True  # the first token and its phases were the sender's to tell
        reason = finish_reason(seq, self._max_model_len)
        if reason is None:
            return None
        self._table.forget(seq)
        return Progress(seq.key, seq.num_output, (), finish_reason=reason)

    def _adopt(self, command: Adopt) -> None:
        seq = self._table.get(command.key)
        if seq is not None and seq.state is RESERVED:
            self._table.adopt(seq, command.num_blocks)

    # -- KV goes out -------------------------------------------------------------------------

    def _pin(self, command: PinCached, now: float) -> Event:
        request = command.request
        known = self._table.get(request.key)
        if known is not None:
            return self._held(known) if known.pinned else _refused(known, "duplicate")
        seq = self._table.create(request, now)
        matched = self._cache.match(seq, len(seq.tokens))
        if not matched:
            return _refused(seq, "not_cached")
        if self._table.blocked is not None:
            return _refused(seq, "busy")  # who waits for blocks may need these
        self._table.add_pinned(seq, matched)
        return self._held(seq)

    def _park(self, command: Park) -> Event:
        seq = self._table.get(command.key)
        if seq is None:
            return Refused(command.key, "not_running")
        if seq.state is HELD and not seq.hold and not seq.pinned:
            return self._held(seq, seq.tokens[-1])  # asked twice
        # `reported`: this attempt has told a token, so the last one of `tokens` is out too.
        decoding = seq.state is RUNNING and seq.num_uncomputed == 1 and seq.reported
        if not decoding or seq.hold:
            return _refused(seq, "not_running")
        self._table.hold(seq)
        return self._held(seq, seq.tokens[-1])

    def _held(self, seq: Sequence, *last: int) -> Progress:
        """All that is computed is final, and stays until released."""
        blocks = tuple(seq.block_ids[: self._room.blocks_for(seq.num_computed)])
        return Progress(
            seq.key,
            seq.num_output - len(last),
            last,
            hold=True,
            blocks=blocks,
            ready_blocks=len(blocks),
            prefill_done=True,
        )


def _reserved(seq: Sequence) -> Reserved:
    return Reserved(seq.key, tuple(seq.block_ids), seq.num_named)


def _refused(seq: Sequence, reason: str) -> Refused:
    return Refused(seq.key, reason)

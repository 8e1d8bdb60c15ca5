"""Which bytes of which source blocks go where in which destination blocks. Pure.

Both sides may differ in block size, in the order of axes, and in the KV heads that they hold (the
sender those of the receiver at least), so that workers of other block sizes and, later, of other
tensor-parallel sizes meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from baton.protocol.kvlayout import DTYPE_BYTES, KVLayout, why_unmappable


@dataclass(frozen=True, slots=True)
class Side:
    """Blocks of one side, by id, in the order of the sequence. Token 0 of the plan is token
    `first_token` of the first block. `heads`: which KV heads of the model the layout's are; None:
    all, from 0 on."""

    layout: KVLayout
    blocks: tuple[int, ...]
    first_token: int = 0
    heads: range | None = None

    @property
    def room(self) -> int:
        """Tokens from `first_token` to the end of the last block."""
        return len(self.blocks) * self.layout.block_size - self.first_token

    def offsets(self, head: int, token: int) -> tuple[int, int]:
        """(index into `blocks`, element within that block) of layer 0, key, dim 0."""
        index, within = divmod(self.first_token + token, self.layout.block_size)
        strides = self.layout.strides()
        first = self.heads.start if self.heads is not None else 0
        return index, within * strides["token"] + (head - first) * strides["head"]


@dataclass(frozen=True, slots=True)
class Span:
    """Blocks are ids, offsets and length bytes."""

    source_block: int
    source_offset: int
    destination_block: int
    destination_offset: int
    length: int


def plan_copies(source: Side, destination: Side, num_tokens: int) -> list[Span]:
    """Spans that copy `num_tokens` tokens of every layer, key and value, and of every head that
    the destination holds; in the order of the destination's blocks and bytes, and none that could
    be joined with the next. Raises ValueError for layouts that cannot be mapped, or for more
    tokens than either side has room for."""
    why = why_unmappable(source.layout, destination.layout, source.heads, destination.heads)
    if why is not None:
        raise ValueError(why)
    if not 0 <= num_tokens <= min(source.room, destination.room):
        raise ValueError(
            f"{num_tokens} tokens, room for {source.room} at the source and {destination.room} "
            "at the destination"
        )
    return _joined(source, destination, sorted(_pieces(source, destination, num_tokens)))


_Piece = tuple[int, int, int, int, int]
"""Destination index and element, source index and element, number of elements."""


def _pieces(source: Side, destination: Side, num_tokens: int) -> Iterator[_Piece]:
    """The longest pieces that are contiguous whatever else the layouts are: one vector of one
    token and head, or single elements of it."""
    theirs, ours = destination.layout.strides(), source.layout.strides()
    whole = theirs["dim"] == ours["dim"] == 1
    dims = (0,) if whole else range(source.layout.head_dim)
    length = source.layout.head_dim if whole else 1
    heads = destination.heads or range(destination.layout.num_kv_heads)
    for token in range(num_tokens):
        for head in heads:
            to, to_first = destination.offsets(head, token)
            of, of_first = source.offsets(head, token)
            for layer in range(source.layout.num_layers):
                for kv in (0, 1):
                    to_at = to_first + layer * theirs["layer"] + kv * theirs["kv"]
                    of_at = of_first + layer * ours["layer"] + kv * ours["kv"]
                    for dim in dims:
                        yield to, to_at + dim * theirs["dim"], of, of_at + dim * ours["dim"], length


def _joined(source: Side, destination: Side, pieces: list[_Piece]) -> list[Span]:
    size = DTYPE_BYTES[source.layout.dtype]
    spans: list[Span] = []

    def add(to: int, to_at: int, of: int, of_at: int, length: int) -> None:
        spans.append(
            Span(source.blocks[of], of_at * size, destination.blocks[to], to_at * size,
                 length * size)
        )  # fmt: skip

    pending: _Piece | None = None
    for piece in pieces:
        if pending is not None:
            to, to_at, of, of_at, length = pending
            if piece[:4] == (to, to_at + length, of, of_at + length):
                pending = (to, to_at, of, of_at, length + piece[4])
                continue
            add(*pending)
        pending = piece
    if pending is not None:
        add(*pending)
    return spans

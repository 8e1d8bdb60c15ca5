"""How the blocks of one grant become messages: by blocks and, if the scheme says so, by layers.
Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import Grant, Scheme

SMALLEST = 256 << 10
"""Bytes of a message that is cut by layers. A transport calls small messages sent when they are in
some buffer, and then nobody knows what the link still has to do. Larger ones have to wait for more
blocks."""

Layers = tuple[int, int]
"""The first layer, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Blocks `first_block` to `num_blocks` of a sequence, `scheme.blocks_per_message` to a tile,
    and each tile one message for each group of layers. Message m goes to tag `first_tag + m`;
    those of a tile follow each other, first layers first."""

    first_block: int
    num_blocks: int
    first_tag: int
    scheme: Scheme
    num_layers: int = 1

    @staticmethod
    def of(grant: Grant, num_layers: int = 1) -> Messages:
        """`num_layers`: of a block; they only matter to a scheme that cuts by layers."""
        return Messages(
            grant.cached_blocks, grant.num_blocks, grant.first_tag, grant.scheme, num_layers
        )

    @property
    def groups(self) -> int:
        """Messages of a tile."""
        return layer_groups(self.scheme, self.num_layers)

    @property
    def count(self) -> int:
        return count_messages(self.num_blocks - self.first_block, self.scheme, self.num_layers)

    def tag(self, message: int) -> int:
        return self.first_tag + message

    def span(self, message: int) -> tuple[int, int]:
        """Indexes in the sequence of the first block of a message, and of the one after its
        last."""
        tile = message // self.groups
        first = self.first_block + tile * self.scheme.blocks_per_message
        return first, min(first + self.scheme.blocks_per_message, self.num_blocks)

    def layers(self, message: int) -> Layers | None:
        """Which layers of its blocks a message holds; None: all."""
        step = self.scheme.layers_per_message
        if self.groups == 1:
            return None
        first = message % self.groups * step
        return first, min(first + step, self.num_layers)


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """Tokens per block at the sender and at the receiver, or any two numbers in their ratio."""

    ours: int = 1
    theirs: int = 1

    def whole(self, blocks: int) -> int:
        """Blocks of theirs that so many of ours fill."""
        return blocks * self.ours // self.theirs

    def begun(self, blocks: int) -> int:
        """The same, one that is filled in part included."""
        return -(-blocks * self.ours // self.theirs)

    def cover(self, first: int, stop: int) -> tuple[int, int, int]:
        """Which of our blocks hold theirs from `first` to before `stop`: the first, the one after
        the last, and how many tokens of the first to skip."""
        begin, end = first * self.theirs, stop * self.theirs
        return begin // self.ours, -(-end // self.ours), begin % self.ours


def layer_groups(scheme: Scheme, num_layers: int) -> int:
    step = scheme.layers_per_message
    return -(-num_layers // step) if 0 < step < num_layers else 1


def count_messages(num_blocks: int, scheme: Scheme, num_layers: int = 1) -> int:
    return -(-num_blocks // scheme.blocks_per_message) * layer_groups(scheme, num_layers)


def can_cut(layout: KVLayout) -> bool:
    """Whether a group of layers is one span of a block."""
    return layout.axes[0] == "layer" and layout.num_layers > 1


def cut_by_layers(scheme: Scheme, layers_per_message: int, layout: KVLayout) -> Scheme:
    """The same scheme cut by layers, as a sender wishes."""
    if not 0 < layers_per_message < layout.num_layers:
        return scheme
    return msgspec.structs.replace(
        scheme,
        blocks_per_message=blocks_by_layers(
            scheme.blocks_per_message, layers_per_message, layout.num_layers, layout.block_bytes
        ),
        layers_per_message=layers_per_message,
    )


def blocks_by_layers(
    blocks_per_message: int, layers_per_message: int, num_layers: int, block_bytes: int
) -> int:
    """How many blocks a message has once it has only some of their layers: no more than make it
    as large as it was, and where that is possible enough for SMALLEST bytes."""
    part = layers_per_message * block_bytes // num_layers
    enough = -(-SMALLEST // max(1, part))
    return max(blocks_per_message, min(blocks_per_message * num_layers // layers_per_message,
                                       enough))


def layer_bytes(layout: KVLayout, layers: Layers) -> tuple[int, int]:
    """Where in a block these layers begin and end, where layers are its slowest axis."""
    each = layout.block_bytes // layout.num_layers
    return layers[0] * each, layers[1] * each

"""How the blocks of one grant become messages. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from baton.protocol.records import Grant, Scheme


@dataclass(frozen=True, slots=True)
class Messages:
    """Blocks `first_block` to `num_blocks` of a sequence, `scheme.blocks_per_message` to a
    message; message m goes to tag `first_tag + m`."""

    first_block: int
    num_blocks: int
    first_tag: int
    scheme: Scheme

    @staticmethod
    def of(grant: Grant) -> Messages:
        return Messages(grant.cached_blocks, grant.num_blocks, grant.first_tag, grant.scheme)

    @property
    def count(self) -> int:
        return count_messages(self.num_blocks - self.first_block, self.scheme)

    def tag(self, message: int) -> int:
        return self.first_tag + message

    def span(self, message: int) -> tuple[int, int]:
        """Indexes in the sequence of the first block of a message, and of the one after its
        last."""
        first = self.first_block + message * self.scheme.blocks_per_message
        return first, min(first + self.scheme.blocks_per_message, self.num_blocks)


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


def count_messages(num_blocks: int, scheme: Scheme) -> int:
    return -(-num_blocks // scheme.blocks_per_message)

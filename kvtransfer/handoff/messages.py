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


def count_messages(num_blocks: int, scheme: Scheme) -> int:
    return -(-num_blocks // scheme.blocks_per_message)

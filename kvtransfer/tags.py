"""Tags: the receiver's names for messages that are to come. No tag is ever used twice."""

from __future__ import annotations

import secrets

EPOCH_BITS = 24
COUNTER_BITS = 40


class TagIssuer:
    """Draws consecutive 64-bit tags: 24 random bits of this process's life, then a counter.

    A late message of an earlier life therefore meets no receive of this one, and 2**40 messages
    fit in one life.
    """

    def __init__(self) -> None:
        self._base = secrets.randbits(EPOCH_BITS) << COUNTER_BITS
        self._next = 0

    def issue(self, count: int) -> int:
        """The first of `count` consecutive tags, none of which was ever issued before."""
        if count < 1:
            raise ValueError(f"cannot issue {count} tags")
        first = self._next
        if first + count > 1 << COUNTER_BITS:
            raise OverflowError("tags are used up; this process must be started again")
        self._next = first + count
        return self._base | first

"""Which cached block goes next, when room is needed. Pure.

    used once                     used again               room is needed
    -----> probation <----------- (while cached) --> protected
               |      the oldest, beyond its share       |
               v                                         v
           goes first                    goes when nothing is on probation

So a long prompt that comes once and never again pushes out others of its kind, and not the prefix
that everybody shares. Within each part the least recently given up goes first, and deeper blocks
of a chain before their parents: chains are given up deepest first, and whoever uses a block uses
all before it, so that a parent is never less protected, nor older, than its children.
"""

from __future__ import annotations

PROTECTED_SHARE = 1 / 3
"""Of all blocks, those that may be protected while nobody uses them. With less, hot prefixes are
lost to long prompts; with more, the ends of conversations to beginnings that nobody needs."""


class EvictionQueue:
    """Of blocks numbered below `num_blocks`, none queued at first."""

    def __init__(self, num_blocks: int, protected_share: float = PROTECTED_SHARE) -> None:
        self._most_protected = int(num_blocks * protected_share)
        self._again = bytearray(num_blocks)
        self._probation: dict[int, None] = {}  # next to go first, as in the other
        self._protected: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def __contains__(self, block: object) -> bool:
        return block in self._probation or block in self._protected

    def is_used_again(self, block: int) -> bool:
        return bool(self._again[block])

    def used_again(self, block: int) -> None:
        """Another than the one that wrote it uses its content. It must not be queued."""
        self._again[block] = True

    def renamed(self, block: int) -> None:
        """It has new content, which nobody used yet, or none. It must not be queued."""
        self._again[block] = False

    def add(self, block: int) -> None:
        """It goes last of its kind."""
        if not self._again[block]:
            self._probation[block] = None
            return
        self._protected[block] = None
        if len(self._protected) > self._most_protected:
            oldest = next(iter(self._protected))
            del self._protected[oldest]
            self._again[oldest] = False
            self._probation[oldest] = None

    def remove(self, block: int) -> None:
        """It is in use. It must be queued."""
        del (self._protected if self._again[block] else self._probation)[block]

    def pop(self) -> int:
        """The next to go. There must be one."""
        queue = self._probation or self._protected
        block = next(iter(queue))
        del queue[block]
        return block

    def clear(self) -> list[int]:
        """All of them, which are queued no more."""
        blocks = [*self._probation, *self._protected]
        self._probation.clear()
        self._protected.clear()
        return blocks

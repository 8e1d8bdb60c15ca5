"""Synthetic contents of many prefix caches, and prompts that meet them.

Each worker caches conversations of 4,096 tokens that begin with a system prompt which all share;
every fourth one is cached by two workers. One long document is cached by all workers to different
lengths. Names of blocks are random: nothing else of a hash matters here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from random import Random

from baton.protocol.cache_events import SHORT_BITS

BLOCK_SIZE = 16
PROMPT_TOKENS = 4096
PROMPT_BLOCKS = PROMPT_TOKENS // BLOCK_SIZE
SYSTEM_BLOCKS = 32
SPREAD = 64
"""The document's different lengths."""

KINDS = {
    "whole": "a conversation that one worker or two have to its end",
    "next_turn": "200 blocks of one, then new ones",
    "new": "the system prompt, then new blocks",
    "spread": f"the document that workers have to {SPREAD} different lengths",
    "unknown": "nothing of it is cached anywhere",
}


class Caches:
    """`blocks` per worker. The same for a seed, worker by worker, however many there are."""

    def __init__(self, blocks: int, seed: int = 1) -> None:
        self._blocks = blocks
        self._random = Random(seed)
        self._system = self._draw(SYSTEM_BLOCKS)
        self._document = self._draw(PROMPT_BLOCKS)
        self._passed_on: list[bytes] = []
        self._known: list[bytes] = []

    def worker(self, number: int) -> Iterator[array[int]]:
        """Short names of the chains in the next worker's cache; for numbers from 0 on."""
        yield shorts(self._system)
        length = (number % SPREAD + 1) * PROMPT_BLOCKS // SPREAD
        yield shorts(self._document)[:length]
        left = self._blocks - SYSTEM_BLOCKS - length
        own: list[bytes] = []
        full = PROMPT_BLOCKS - SYSTEM_BLOCKS
        while left > 0:
            taken = self._passed_on.pop() if self._passed_on else None
            tail = taken or self._draw(full)
            if taken is None and self._random.random() < 0.25:
                own.append(tail)
            if left >= full and (not self._known or self._random.random() < 0.05):
                self._known.append(tail)
            yield shorts(tail)[:left]
            left -= full
        self._passed_on = own

    def prompt(self, kind: str) -> list[bytes]:
        """Names of the blocks of a prompt of one of KINDS, each an object of its own that was made
        just now, as by hashing."""
        match kind:
            case "whole":
                data = self._system + self._random.choice(self._known)
            case "next_turn":
                tail = self._random.choice(self._known)[: (200 - SYSTEM_BLOCKS) * 16]
                data = self._system + tail + self._draw(PROMPT_BLOCKS - 200)
            case "new":
                data = self._system + self._draw(PROMPT_BLOCKS - SYSTEM_BLOCKS)
            case "spread":
                data = self._document
            case _:
                data = self._draw(PROMPT_BLOCKS)
        return [data[at : at + 16] for at in range(0, len(data), 16)]

    def _draw(self, count: int) -> bytes:
        return self._random.randbytes(16 * count)


def shorts(names: bytes) -> array[int]:
    """Short names of full names that lie one after the other (little-endian machines)."""
    return array("Q", (word >> (64 - SHORT_BITS) for word in memoryview(names).cast("Q")[::2]))

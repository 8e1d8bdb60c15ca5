"""Who is likely to have which blocks in its cache, by what it computed for this router. Pure.

What a worker computed or received it goes on caching as long as it has room, so a conversation's
next turn finds its past where the last one ended. That is remembered here per block, by the hash of
all tokens up to its end; the least recently used are forgotten, and a worker counts only in the
life in which it computed them. It is a guess: the worker knows, and says so when it is asked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from baton.protocol.hashing import HASH_BYTES
from baton.protocol.ids import Identity

MAX_BLOCKS = 1 << 16
TOKEN_BYTES = 4


class Chain:
    """Hashes of the full blocks of a growing sequence of tokens, each over all before it."""

    def __init__(self, root: bytes) -> None:
        self.hashes: list[bytes] = []
        self._root = root

    def extend(self, packed: bytes, block_size: int) -> None:
        """`packed`: all tokens so far, of which what was here before is the beginning
        (`pack_tokens`). `block_size`: in tokens, always the same."""
        size = block_size * TOKEN_BYTES
        parent = self.hashes[-1] if self.hashes else self._root
        for start in range(len(self.hashes) * size, len(packed) - size + 1, size):
            parent = blake2b(
                packed[start : start + size], key=parent, digest_size=HASH_BYTES
            ).digest()
            self.hashes.append(parent)


class Holders:
    """`max_blocks`: so many different ones are remembered, some 200 bytes each."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[bytes, tuple[Identity, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def remember(self, worker: Identity, chain: Sequence[bytes]) -> None:
        """It has the KV of all these blocks now."""
        alone = (worker,)
        for name in reversed(chain):  # the first is forgotten last: the others need it
            known = self._blocks.setdefault(name, alone)
            if worker not in known:
                # Another life of the same worker has nothing any more.
                others = tuple(w for w in known if w.node_id != worker.node_id)
                self._blocks[name] = (*others, worker)
            self._blocks.move_to_end(name)
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)

    def held(self, chain: Sequence[bytes]) -> dict[Identity, int]:
        """How many leading blocks of a chain each worker is likely to have. Those that have none
        are not named; some that are named may have died."""
        found: dict[Identity, int] = {}
        for depth, name in enumerate(chain):
            here = [w for w in self._blocks.get(name, ()) if found.get(w, 0) == depth]
            if not here:
                break
            for worker in here:
                found[worker] = depth + 1
        return found

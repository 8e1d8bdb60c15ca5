"""Which blocks a sequence need not compute: those in the pool, and those being computed. Pure.

The pool knows content by hash; this keeps each sequence's chain of hashes and the blocks that
running prefills have *announced*. An announcement stands from a sequence's admission until the
block is registered, or until the sequence is preempted or gone, so whoever waits for one waits
for a running sequence.
"""

from __future__ import annotations

from baton.engine.block_pool import BlockPool, IntegrityError
from baton.engine.cache_log import FIRST
from baton.engine.sequence import Sequence
from baton.protocol.hashing import extend_chain, extend_names, root_hash


class PrefixCache:
    """`salt` names what all KV of this pool depends on."""

    def __init__(self, pool: BlockPool, block_size: int, salt: tuple[str, ...]) -> None:
        self._pool = pool
        self._block_size = block_size
        self._salt = salt
        self._announced: dict[bytes, Sequence] = {}

    def root(self, cache_salt: str) -> bytes:
        """What the chains of requests with this salt start from."""
        return root_hash(*self._salt, str(self._block_size), cache_salt)

    def match(self, seq: Sequence, max_tokens: int) -> list[int]:
        """Blocks with the KV of the longest known part of its first `max_tokens` tokens."""
        count = max_tokens // self._block_size
        self._extend_hashes(seq, count)
        return self._pool.match(seq.block_hashes[:count])

    def tokens_in(self, blocks: list[int]) -> int:
        return len(blocks) * self._block_size

    def register(self, seq: Sequence) -> None:
        """Name the full blocks of `num_computed` tokens that have no name yet."""
        first, full = seq.num_named, seq.num_computed // self._block_size
        if full <= first:
            return
        self._extend_hashes(seq, full)
        names = seq.block_hashes[first:full]
        parent = seq.block_hashes[first - 1] if first else FIRST
        self._pool.register_run(seq.block_ids[first:full], names, parent)
        if self._announced:
            for name in names:
                self._announced.pop(name, None)
        seq.num_named = full

    # -- blocks on their way -----------------------------------------------------------------

    def announce(self, seq: Sequence) -> None:
        """A sequence just admitted computes its full blocks from `num_named` on."""
        self._extend_hashes(seq, len(seq.tokens) // self._block_size)
        for name in seq.block_hashes[seq.num_named :]:
            self._announced.setdefault(name, seq)

    def withdraw(self, seq: Sequence) -> None:
        """It computes no more of them."""
        for name in seq.block_hashes[seq.num_named :]:
            if self._announced.get(name) is seq:
                del self._announced[name]

    def is_coming(self, seq: Sequence, num_matched: int) -> bool:
        """Whether a running sequence computes the block of `seq` after the matched ones (which
        `seq` could use: the block with its last token it always computes itself)."""
        if num_matched >= (len(seq.tokens) - 1) // self._block_size:
            return False
        name = seq.block_hashes[num_matched]
        if name not in self._announced:
            return False
        seq.awaits = name
        return True

    def still_coming(self, seq: Sequence) -> bool:
        """The same as at the last `is_coming`, without matching again."""
        return seq.awaits is not None and seq.awaits in self._announced

    def computed_by(self, seq: Sequence) -> Sequence:
        """Who computes what it waits for, which must be still coming: a running sequence."""
        assert seq.awaits is not None
        return self._announced[seq.awaits]

    def check_integrity(self, running: list[Sequence]) -> None:
        """Raises IntegrityError if something is announced that nobody computes."""
        for name, seq in self._announced.items():
            if seq not in running or name not in seq.block_hashes[seq.num_named :]:
                raise IntegrityError(f"{seq.key} announces {name.hex()} and does not compute it")

    def _extend_hashes(self, seq: Sequence, count: int) -> None:
        hashes, size = seq.block_hashes, self._block_size
        in_prompt = min(count, seq.prompt_len // size)
        if len(hashes) < in_prompt:
            self._name_prompt(seq, in_prompt)
        while len(hashes) < count:
            start = len(hashes) * size
            parent = hashes[-1] if hashes else seq.root
            hashes.append(extend_chain(parent, seq.tokens[start : start + size]))

    def _name_prompt(self, seq: Sequence, count: int) -> None:
        """As `_extend_hashes`, of blocks of the prompt, whose tokens are at hand packed."""
        extend_names(seq.block_hashes, seq.root, seq.request.prompt, self._block_size, count)

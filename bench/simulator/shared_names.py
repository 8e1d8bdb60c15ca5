"""The names of a prompt's blocks, hashed once for all workers that meet it."""

from __future__ import annotations

from collections.abc import Callable

from baton.engine.block_pool import BlockPool
from baton.engine.prefix_cache import PrefixCache
from baton.engine.sequence import Sequence
from baton.protocol.hashing import extend_names

_PROMPTS = 512
"""That are remembered: more than are between two workers at a time."""


class PromptNames:
    """Of the prompts met last. The prompt is known by its bytes, which all workers share."""

    def __init__(self) -> None:
        self._names: dict[tuple[bytes, bytes], list[bytes]] = {}

    def of(self, root: bytes, prompt: bytes, block_size: int, count: int) -> list[bytes]:
        """The first `count` of them, or more."""
        names = self._names.get((root, prompt))
        if names is None:
            if len(self._names) >= _PROMPTS:
                del self._names[next(iter(self._names))]
            names = self._names[root, prompt] = []
        if len(names) < count:
            extend_names(names, root, prompt, block_size, count)
        return names


class SharedPrefixCache(PrefixCache):
    """The real one, but for who hashes."""

    names: PromptNames

    def _name_prompt(self, seq: Sequence, count: int) -> None:
        size = self._block_size
        names = self.names.of(seq.root, seq.request.prompt, size, count)
        seq.block_hashes += names[len(seq.block_hashes) : count]

    @classmethod
    def with_names(
        cls, names: PromptNames
    ) -> Callable[[BlockPool, int, tuple[str, ...]], PrefixCache]:
        """For `Scheduler`."""

        def make(pool: BlockPool, block_size: int, salt: tuple[str, ...]) -> PrefixCache:
            cache = cls(pool, block_size, salt)
            cache.names = names
            return cache

        return make

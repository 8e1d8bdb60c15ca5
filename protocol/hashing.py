"""Block hashes: equal hash, equal content.

The hash of a block chains over the token ids of all blocks before it and starts from a salt
that names everything else the KV depends on (model fingerprint, KV dtype, block size, adapter,
tenant). BLAKE2b is used because a collision would hand one tenant another's cache.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b

HASH_BYTES = 16
TOKEN_BYTES = 4
"""Of a packed token id."""


def root_hash(*parts: str) -> bytes:
    """The salt that a chain starts from."""
    digest = blake2b(digest_size=HASH_BYTES)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "little"))
        digest.update(encoded)
    return digest.digest()


def kv_root(fingerprint: str, dtype: str, block_size: int, cache_salt: str) -> bytes:
    """What the chains of one model's KV start from. `cache_salt`: the request's."""
    return root_hash(fingerprint, dtype, str(block_size), cache_salt)


def extend_chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The hash of one full block, given its predecessor's (or the root's)."""
    packed = array("i", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return blake2b(packed.tobytes(), key=parent, digest_size=HASH_BYTES).digest()


def extend_names(
    names: list[bytes], root: bytes, packed: bytes, block_size: int, count: int
) -> None:
    """Append the hashes of the blocks behind those that `names` has already, until it has `count`.
    `packed`: all tokens from the first on, at least so many blocks."""
    size = block_size * TOKEN_BYTES
    parent = names[-1] if names else root
    for start in range(len(names) * size, count * size, size):
        parent = blake2b(
            packed[start : start + size], key=parent, digest_size=HASH_BYTES
        ).digest()
        names.append(parent)


def chain_hashes(root: bytes, tokens: Sequence[int], block_size: int) -> list[bytes]:
    """Hashes of all full blocks of `tokens`; a trailing partial block has none."""
    hashes: list[bytes] = []
    parent = root
    for start in range(0, len(tokens) - block_size + 1, block_size):
        parent = extend_chain(parent, tokens[start : start + block_size])
        hashes.append(parent)
    return hashes


class Chain:
    """Hashes of the full blocks of a sequence of packed tokens that grows (`pack_tokens`)."""

    def __init__(self, root: bytes) -> None:
        self.hashes: list[bytes] = []
        self._root = root

    def extend(self, packed: bytes, block_size: int) -> None:
        """`packed`: all tokens so far, of which what was here before is the beginning.
        `block_size`: in tokens, always the same."""
        count = len(packed) // (block_size * TOKEN_BYTES)
        extend_names(self.hashes, self._root, packed, block_size, count)

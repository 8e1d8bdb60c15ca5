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


def chain_hashes(root: bytes, tokens: Sequence[int], block_size: int) -> list[bytes]:
    """Hashes of all full blocks of `tokens`; a trailing partial block has none."""
    hashes: list[bytes] = []
    parent = root
    for start in range(0, len(tokens) - block_size + 1, block_size):
        parent = extend_chain(parent, tokens[start : start + block_size])
        hashes.append(parent)
    return hashes

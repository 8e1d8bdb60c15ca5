"""Token ids on the wire: little-endian int32, four bytes each."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable


def pack_tokens(tokens: Iterable[int]) -> bytes:
    """Token ids to bytes. Raises OverflowError for an id outside int32."""
    packed = array("i", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_tokens(data: bytes) -> list[int]:
    """Bytes to token ids. Raises ValueError when the length is not a multiple of four."""
    packed = array("i")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tolist()

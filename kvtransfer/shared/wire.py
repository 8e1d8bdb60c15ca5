"""What is said on the socket between a sender and a receiver that takes blocks itself. Pure.

| from | message | means |
|---|---|---|
| receiver | `Hello` | which inbox this connection is for; the first message |
| sender | `Memory` | the descriptor that comes with it can be mapped under this number |
| sender | `MemoryGone` | nothing more will be offered from it |
| sender | `Offer` | a message for this tag lies there; answered once |
| sender | `Empty` | a message of no bytes for this tag; answered once |
| sender | `Elsewhere` | the message for this tag comes over UCX |
| receiver | `Taken` | these offers are over: their memory is not read any more |
| receiver | `Declined` | send the message of this offer over UCX instead |

Both ends are of one build on one host, or they do not meet: `VERSION` is part of the hello. All the
same nothing that is said is believed: numbers are checked against the memory that was mapped.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass

VERSION = 1
MAX_BYTES = 64 << 10
"""Of one message: a third of what the kernel takes at once."""

_HELLO = struct.Struct("<BB16s")
_MEMORY = struct.Struct("<BIQ")
_GONE = struct.Struct("<BI")
_OFFER = struct.Struct("<B3xIQIIQQQ")
_TAGGED = struct.Struct("<B3xIQ")
_NUMBERED = struct.Struct("<B3xI")
_HELLO_KIND, _MEMORY_KIND, _GONE_KIND, _OFFER_KIND, _EMPTY_KIND = range(1, 6)
_ELSEWHERE_KIND, _TAKEN_KIND, _DECLINED_KIND = range(6, 9)


class WireError(Exception):
    """What came is no message."""


@dataclass(frozen=True, slots=True)
class Hello:
    version: int
    token: bytes
    """16 bytes: of the inbox, which the sender has in its address."""


@dataclass(frozen=True, slots=True)
class Memory:
    number: int
    size: int


@dataclass(frozen=True, slots=True)
class MemoryGone:
    number: int


@dataclass(slots=True)
class Offer:
    """Rows of memory `memory`: row i is the `width` bytes from `start + indexes[i] * stride` on.
    No indexes: a message of no bytes."""

    number: int
    tag: int
    memory: int
    start: int
    stride: int
    width: int
    indexes: array[int]

    @property
    def size(self) -> int:
        return self.width * len(self.indexes)

    def fits(self, memory_bytes: int) -> bool:
        return (
            self.width > 0
            and self.start + max(self.indexes) * self.stride + self.width <= memory_bytes
        )


@dataclass(frozen=True, slots=True)
class Empty:
    number: int
    tag: int


@dataclass(frozen=True, slots=True)
class Elsewhere:
    tag: int


@dataclass(frozen=True, slots=True)
class Taken:
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Declined:
    number: int


Message = Hello | Memory | MemoryGone | Offer | Empty | Elsewhere | Taken | Declined


def pack_hello(token: bytes) -> bytes:
    return _HELLO.pack(_HELLO_KIND, VERSION, token)


def pack_memory(number: int, size: int) -> bytes:
    return _MEMORY.pack(_MEMORY_KIND, number, size)


def pack_gone(number: int) -> bytes:
    return _GONE.pack(_GONE_KIND, number)


def pack_offer(
    number: int, tag: int, memory: int, start: int, stride: int, width: int, indexes: array[int]
) -> bytes:
    head = _OFFER.pack(_OFFER_KIND, number, tag, memory, len(indexes), start, stride, width)
    return head + indexes.tobytes()


def pack_empty(number: int, tag: int) -> bytes:
    return _TAGGED.pack(_EMPTY_KIND, number, tag)


def pack_elsewhere(tag: int) -> bytes:
    return _TAGGED.pack(_ELSEWHERE_KIND, 0, tag)


def pack_taken(numbers: list[int]) -> bytes:
    return bytes([_TAKEN_KIND]) + struct.pack(f"<{len(numbers)}I", *numbers)


def pack_declined(number: int) -> bytes:
    return _NUMBERED.pack(_DECLINED_KIND, number)


def unpack(data: bytes | memoryview) -> Message:
    """Raises WireError."""
    try:
        return _unpack(data)
    except (struct.error, ValueError, IndexError) as error:
        raise WireError(f"{len(data)} bytes that are no message: {error}") from error


def _unpack(data: bytes | memoryview) -> Message:
    kind = data[0]
    if kind == _OFFER_KIND:
        _, number, tag, memory, count, start, stride, width = _OFFER.unpack_from(data)
        indexes = array("I")
        indexes.frombytes(data[_OFFER.size :])
        if not count or len(indexes) != count:
            raise WireError(f"an offer of {count} rows with {len(indexes)}")
        return Offer(number, tag, memory, start, stride, width, indexes)
    if kind == _TAKEN_KIND:
        count, rest = divmod(len(data) - 1, 4)
        if rest:
            raise WireError(f"{len(data)} bytes of answers")
        return Taken(struct.unpack_from(f"<{count}I", data, 1))
    if kind == _HELLO_KIND:
        return Hello(*_HELLO.unpack(data)[1:])
    if kind == _MEMORY_KIND:
        return Memory(*_MEMORY.unpack(data)[1:])
    if kind == _GONE_KIND:
        return MemoryGone(*_GONE.unpack(data)[1:])
    if kind == _EMPTY_KIND:
        return Empty(*_TAGGED.unpack(data)[1:])
    if kind == _ELSEWHERE_KIND:
        return Elsewhere(_TAGGED.unpack(data)[2])
    if kind == _DECLINED_KIND:
        return Declined(_NUMBERED.unpack(data)[1])
    raise WireError(f"a message of kind {kind}")

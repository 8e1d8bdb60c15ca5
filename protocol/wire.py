"""Records to bytes and back. MessagePack carries them; types are checked on arrival."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec

from baton.protocol.cache_events import CacheRecord
from baton.protocol.records import AnyRecord, Record

MAX_RECORD_BYTES = 64 * 1024 * 1024


class MalformedRecord(ValueError):
    """Bytes that are no record of ours. The message says what was wrong."""


def to_wire(record: Record) -> Any:
    """A record as plain lists, strings, numbers and bytes."""
    return msgspec.to_builtins(record, builtin_types=(bytes,))


def from_wire(plain: Any) -> AnyRecord | CacheRecord:
    """Raises MalformedRecord unless `plain` is exactly one known record."""
    try:
        record: AnyRecord | CacheRecord = msgspec.convert(
            plain, type=AnyRecord | CacheRecord, builtin_types=(bytes,)
        )
    except (msgspec.ValidationError, ValueError) as error:
        raise MalformedRecord(str(error)) from error
    return record


def pack(plain: Any) -> bytes:
    data: bytes = msgpack.packb(plain, use_bin_type=True)
    return data


def unpack(data: bytes | memoryview) -> Any:
    """Raises MalformedRecord for anything that is not one whole MessagePack value."""
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_bin_len=MAX_RECORD_BYTES,
            max_str_len=MAX_RECORD_BYTES,
        )
    except Exception as error:  # msgpack raises many kinds, all of which mean the same here
        raise MalformedRecord(f"not MessagePack: {error}") from error

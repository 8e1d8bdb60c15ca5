"""What one UCX transport tells another about itself: a checked envelope.

UCX aborts the whole process when it is given bytes that are not an address, so these are checked
before it sees them. The envelope also names the process, so that a peer on the same host learns
of its death from the kernel.
"""

from __future__ import annotations

import zlib

import msgspec

from baton.protocol.ids import ProcessRef, own_process

_MAGIC = b"BTNU"


class UcxAddress(msgspec.Struct, frozen=True, array_like=True):
    """`version` is libucx's. An older peer skips what it does not know at the end."""

    version: str
    worker: bytes
    process: ProcessRef
    meeting: str = ""
    """The name of the socket where receivers on this host ask for its memory; none if empty."""
    token: bytes = b""
    """Of an inbox that has asked there: what its sender offers, it takes itself."""

    def pack(self) -> bytes:
        body = msgspec.msgpack.encode(self)
        return _MAGIC + zlib.crc32(body).to_bytes(4, "big") + body


def unpack(data: bytes) -> UcxAddress:
    """Raises ConnectionError for what is not, or is no longer, the address of a transport."""
    body = data[8:]
    if data[:4] != _MAGIC or data[4:8] != zlib.crc32(body).to_bytes(4, "big"):
        raise ConnectionError("not the address of a UCX transport")
    try:
        return msgspec.msgpack.decode(body, type=UcxAddress)
    except msgspec.MsgspecError as error:
        raise ConnectionError(f"not the address of a UCX transport: {error}") from error


def own_address(version: str, worker: bytes, meeting: str) -> UcxAddress:
    return UcxAddress(version, worker, own_process(), meeting)

"""What one UCX transport tells another about itself: a checked envelope.

UCX aborts the whole process when it is given bytes that are not an address, so these are checked
before it sees them. The envelope also names the process, so that a peer on the same host learns
of its death from the kernel.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import msgspec

_MAGIC = b"BTNU"


class UcxAddress(msgspec.Struct, frozen=True, array_like=True):
    """`version` is libucx's. `pid` means something within `pid_namespace` only."""

    version: str
    worker: bytes
    pid: int
    started: int
    pid_namespace: str

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


def process_start(pid: int) -> int:
    """When this process started, in clock ticks since boot: tells it from a later one with the
    same number. Raises ProcessLookupError."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    # The command name, in parentheses, may itself hold spaces and parentheses.
    return int(stat.rpartition(")")[2].split()[19])


def own_address(version: str, worker: bytes) -> UcxAddress:
    pid = os.getpid()
    return UcxAddress(version, worker, pid, process_start(pid), pid_namespace())


def pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())

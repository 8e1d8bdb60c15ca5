"""Memory of this process that others on its host may map: for a KV pool, which a receiver then
copies from itself.

It has no name in any file system: whoever is handed the descriptor can map it, and it is gone with
the last process that does. It is sealed, so that nobody can shrink it under a reader.

The operating system gives such memory out in small pages unless it is set up otherwise, which
costs a reader of scattered blocks up to a third of its speed. `use_huge_pages` asks for large ones,
part by part, for they are zeroed when they are made.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import weakref
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

HUGE = 2 << 20
"""Bytes of a huge page, and the alignment of every mapping here."""
_POPULATE_WRITE, _COLLAPSE = 23, 25  # madvise
_FIXED = 0x10
_ADD_SEALS, _GET_SEALS = 1033, 1034
_SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW = 1, 2, 4
_SEALS = _SEAL_SEAL | _SEAL_SHRINK | _SEAL_GROW


@dataclass(eq=False, slots=True)
class Region:
    """Where one shared memory lies. `fd` is open until it `is_gone`."""

    address: int
    size: int
    fd: int
    is_gone: bool = False


class SharedMemory:
    """`array` is [size] uint8, zeros at first, in pages that come with their first use. Freed when
    nothing refers to `array` any more."""

    def __init__(self, size: int) -> None:
        """Raises OSError where the system has no such memory, MemoryError where it is more than
        the machine has."""
        if size < 1:
            raise ValueError(f"memory of {size} bytes")
        if not hasattr(os, "memfd_create"):
            raise OSError("this system cannot share memory without a name")
        _check_room(size)
        fd = os.memfd_create("baton-kv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, _ADD_SEALS, _SEALS)
            mapping = Mapping(fd, size, writable=True)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self.size = size
        self.address = mapping.address
        self.array: np.ndarray[Any, np.dtype[np.uint8]] = mapping.array
        self._huge_until = 0
        _all[self.address] = Region(self.address, size, fd)
        weakref.finalize(mapping.owner, _forget, self.address, fd)
        mapping.release_to_owner()

    def wants_huge_pages(self, end: int) -> bool:
        """Whether `use_huge_pages` would have something to do."""
        return self._huge_until < self._huge_end(end)

    def use_huge_pages(self, end: int) -> None:
        """Have huge pages from the start up to about byte `end`, as far as that was not tried yet.
        What is written there stays, also what is being written. Never fails: where the system gives
        none, pages stay small. Not for two threads at a time."""
        for at in range(self._huge_until, self._huge_end(end), HUGE):
            # One page of it must be there.
            _madvise(self.address + at, mmap.PAGESIZE, _POPULATE_WRITE)
            if _madvise(self.address + at, HUGE, _COLLAPSE) == errno.EINVAL:
                self._huge_until = self.size  # before Linux 6.1
                return
            self._huge_until = at + HUGE

    def _huge_end(self, end: int) -> int:
        return min(-(-end // HUGE) * HUGE, self.size // HUGE * HUGE)


def shared_bytes(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """[size] uint8 of shared memory, or of plain memory where there is none."""
    try:
        memory = SharedMemory(size)
    except OSError:
        return np.zeros(size, np.uint8)
    memory.use_huge_pages(size)
    return memory.array


def region_of(address: int, size: int) -> Region | None:
    """The shared memory that these bytes lie in, all of them."""
    for region in tuple(_all.values()):
        if region.address <= address and address + size <= region.address + region.size:
            return region
    return None


class Mapping:
    """A memfd in this process's address space. `array` [size] uint8. Unmapped by `close`, or
    (`release_to_owner`) when nothing refers to the array any more."""

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        """Raises OSError when it cannot be mapped."""
        libc = _libc()
        # Reserved with room to align in, then put in its place.
        room = size + HUGE
        reserved = _mapped(libc.mmap(None, room, 0, _PRIVATE, -1, 0))
        self.address = -(-reserved // HUGE) * HUGE
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            _mapped(libc.mmap(self.address, size, protection, mmap.MAP_SHARED | _FIXED, fd, 0))
        except OSError:
            libc.munmap(reserved, room)
            raise
        self.size = size
        self._unmap = (reserved, room)
        self.owner = (ctypes.c_uint8 * size).from_address(self.address)
        self.array: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(
            memoryview(self.owner), np.uint8
        )
        self.array.flags.writeable = writable

    def release_to_owner(self) -> None:
        weakref.finalize(self.owner, _libc().munmap, *self._unmap)
        del self.owner, self.array

    def close(self) -> None:
        """Nothing may look at it any more. Idempotent."""
        if self._unmap[1]:
            _libc().munmap(*self._unmap)
            self._unmap = (0, 0)


def is_sealed(fd: int) -> bool:
    """Nobody can change its size any more, so that reading what was mapped never faults."""
    try:
        seals = fcntl.fcntl(fd, _GET_SEALS)
    except OSError:
        return False
    return bool(seals & _SEAL_SHRINK)


_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
_all: dict[int, Region] = {}


def _forget(address: int, fd: int) -> None:
    region = _all.pop(address, None)
    if region is not None:
        region.is_gone = True
    os.close(fd)


def _check_room(size: int) -> None:
    """Shared pages are promised without being counted; asking for more than there is would end
    in a bus error."""
    pages = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    if size > pages:
        raise MemoryError(f"{size} bytes on a machine of {pages}")


def _mapped(address: int | None) -> int:
    if address is None or address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return address


def _madvise(address: int, size: int, advice: int) -> int:
    """0, or the error. Tried again where the system was merely busy."""
    libc = _libc()
    for _ in range(3):
        if libc.madvise(address, size, advice) == 0:
            return 0
        error = ctypes.get_errno()
        if error != errno.EAGAIN:
            return error
    return errno.EAGAIN


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    number = ctypes.c_int
    libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    libc.mmap.restype = pointer
    libc.munmap.argtypes = [pointer, size]
    libc.madvise.argtypes = [pointer, size, number]
    return libc

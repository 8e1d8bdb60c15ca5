"""Takes memory from the operating system on a thread, while this one imports libraries.

Fresh pages cost the kernel time when they are first touched: for the weights of a small model
about as long as copying them, in a virtual machine several times that. It needs no lock of Python,
so it can be over by the time the weights come. glibc's allocator then hands these pages out.
"""

from __future__ import annotations

import ctypes
import sys
import threading

import psutil

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_DEFAULT_TOP_PAD, _DEFAULT_MMAP_MAX = 128 << 10, 65536
_LARGEST_OPTION = (1 << 31) - 1
_MADV_POPULATE_WRITE = 23
_PAGE = 4096
_PIECE = 2 << 20


class GrownHeap:
    """The heap of this process, larger by `num_bytes`, but never by more than half of the memory
    that is free. Until `give_back`, everything is allocated in it, however large. Without glibc
    or Linux nothing happens."""

    def __init__(self, num_bytes: int) -> None:
        self._libc = libc = ctypes.CDLL(None)
        self._thread: threading.Thread | None = None
        if not sys.platform.startswith("linux") or not hasattr(libc, "mallopt"):
            return
        libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
        libc.sbrk.argtypes = [ctypes.c_ssize_t]
        libc.malloc.argtypes = [ctypes.c_size_t]
        libc.free.argtypes = libc.malloc_trim.argtypes = [ctypes.c_void_p]
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        size = min(num_bytes, psutil.virtual_memory().available // 2, _LARGEST_OPTION)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_OPTION)
        libc.mallopt(_M_TOP_PAD, size)
        before = libc.sbrk(0)
        libc.free(libc.malloc(_PIECE))
        libc.mallopt(_M_TOP_PAD, _DEFAULT_TOP_PAD)
        begin, end = -(-before // _PAGE) * _PAGE, libc.sbrk(0) // _PAGE * _PAGE
        self._thread = threading.Thread(
            target=self._touch, args=(begin, end), name="grow heap", daemon=True
        )
        self._thread.start()

    def _touch(self, begin: int, end: int) -> None:
        for address in range(begin, end, _PIECE):
            if self._libc.madvise(address, min(_PIECE, end - address), _MADV_POPULATE_WRITE):
                return  # an older kernel: it is touched when it is used

    def give_back(self) -> None:
        """What was not needed, and glibc's own ways."""
        if self._thread is not None:
            self._thread.join()
            self._libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
            self._libc.mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TOP_PAD)
            self._libc.malloc_trim(0)

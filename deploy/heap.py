"""How a worker's process takes memory from the operating system: seldom, and some of it early.

Fresh pages cost the kernel time when they are first touched: for the weights of a small model
about as long as copying them, in a virtual machine several times that. So a loader takes them on a
thread, while it imports libraries: it needs no lock of Python, and can be over by the time the
weights come. glibc's allocator then hands these pages out.

The same goes for what a step allocates and frees, layer by layer. By itself glibc learns to keep
such memory; but whoever sets any of its options, as happens here, ends its learning (mallopt(3)),
and then each activation of more than 128 KiB is taken and given back anew.
"""

from __future__ import annotations

import ctypes
import sys
import threading

import psutil

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_DEFAULT_TOP_PAD, _DEFAULT_MMAP_MAX = 128 << 10, 65536
_LARGEST_THRESHOLD = 32 << 20
"""Bytes. Larger ones are the system's, each by itself; glibc allows no more on 64 bits."""
_KEPT = 256 << 20
"""Bytes that are free at an end of a heap and not given back."""
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
        """What was not needed. This process and its forks then `keep_freed_memory`."""
        if self._thread is not None:
            self._thread.join()
            self._libc.mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
            self._libc.malloc_trim(0)
            keep_freed_memory()


def keep_freed_memory() -> None:
    """What is freed is used again, unless it is more than a step's activations take. Without glibc
    nothing happens."""
    libc = ctypes.CDLL(None)
    if sys.platform.startswith("linux") and hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)

"""Copies of scattered blocks on a thread of their own, off the loop that asks for them.

The thread is one of C where there is a compiler: it never needs the interpreter's lock, for which
it would wait behind a busy engine. Otherwise one of Python, which moves each span with a foreign
call.

    submitted -> copied slice by slice, in turns with other lanes -> told as done
        |
        +-> cancelled: nothing is copied any more once `cancel` returns
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import logging
import os
import threading
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

from baton.kernels.native.build import load_block_copy

log = logging.getLogger(__name__)

_TAKEN_AT_ONCE = 64
_INT64, _POINTER = ctypes.c_int64, ctypes.c_void_p


class Place(ctypes.Structure):
    """Rows of one memory: `struct rows` of block_copy.c. `indexes` has to outlive it."""

    _fields_ = (
        ("base", _POINTER),
        ("stride", _INT64),
        ("width", _INT64),
        ("count", _INT64),
        ("indexes", _POINTER),
    )


class Rows:
    """`indexes` (array "I") count strides of `stride` bytes from address `base`; each row holds
    `width` bytes. Whoever makes it knows that all of it may be read, or written."""

    __slots__ = ("base", "indexes", "place", "stride", "width")

    def __init__(self, base: int, stride: int, width: int, indexes: array[int]) -> None:
        self.base, self.stride, self.width, self.indexes = base, stride, width, indexes
        self.place = Place(base, stride, width, len(indexes), indexes.buffer_info()[0])

    def address(self, row: int) -> int:
        return self.base + self.indexes[row] * self.stride


class _CJob(ctypes.Structure):
    """`struct job`."""

    _fields_ = (
        ("next", _POINTER),
        ("source", Place),
        ("target", Place),
        ("left", _INT64),
        ("at", _INT64 * 4),
        ("number", ctypes.c_uint64),
        ("stopped", ctypes.c_int32),
    )


class Job:
    """One copy under way. `on_done` comes from the loop."""

    __slots__ = ("keep", "lane", "number", "on_done", "raw", "size", "source", "stopped", "target")

    def __init__(
        self, lane: Any, source: Rows, target: Rows, size: int, on_done: Callable[[], None],
        keep: Any,
    ) -> None:
        self.lane, self.source, self.target, self.size = lane, source, target, size
        self.on_done, self.keep = on_done, keep
        self.raw: Any = None
        self.number = 0
        self.stopped = False


class Copier(ABC):
    """Made on a running loop. Used only from its thread."""

    name: str

    @abstractmethod
    def lane(self) -> Any:
        """A queue whose jobs take turns with those of others."""

    @abstractmethod
    def end_lane(self, lane: Any) -> None:
        """Nothing may be under way on it."""

    @abstractmethod
    def submit(
        self, lane: Any, source: Rows, target: Rows, size: int, on_done: Callable[[], None],
        keep: Any = None,
    ) -> Job:
        """Copy the first `size` bytes of the rows of `source`, in their order, into those of
        `target`, which hold as many. `keep` is kept alive until then."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Nothing is copied any more when this returns, after the time of a slice at most, and
        `on_done` never comes."""

    @abstractmethod
    def close(self) -> None:
        """As if every job were cancelled. Idempotent."""


def make_copier(loop: asyncio.AbstractEventLoop) -> Copier:
    """In C if that can be had."""
    library = load_block_copy()
    if library is not None:
        with contextlib.suppress(OSError):
            return NativeCopier(library, loop)
        log.warning("no thread for copying in C; copying in Python")
    return PythonCopier(loop)


class NativeCopier(Copier):
    name = "native"

    def __init__(self, library: ctypes.CDLL, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError when there is no thread to be had."""
        self._functions = _functions(library._name)
        self._waits = _waiting_functions(library)
        self._loop = loop
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._copier = self._functions["start"](self._event_fd)
        if not self._copier:
            os.close(self._event_fd)
            raise OSError("no thread")
        self._taken = (ctypes.c_uint64 * _TAKEN_AT_ONCE)()
        loop.add_reader(self._event_fd, self._ended)

    def lane(self) -> Any:
        lane = self._functions["lane"](self._copier)
        if not lane:
            raise MemoryError("no memory for a lane")
        return lane

    def end_lane(self, lane: Any) -> None:
        if self._copier:
            self._functions["end_lane"](self._copier, lane)

    def submit(
        self, lane: Any, source: Rows, target: Rows, size: int, on_done: Callable[[], None],
        keep: Any = None,
    ) -> Job:
        job = Job(lane, source, target, size, on_done, keep)
        job.number = next(self._numbers)
        job.raw = _CJob(source=source.place, target=target.place, left=size, number=job.number)
        self._jobs[job.number] = job
        self._functions["submit"](self._copier, lane, ctypes.addressof(job.raw))
        return job

    def cancel(self, job: Job) -> None:
        job.stopped = True
        if self._copier and job.number in self._jobs:
            self._waits["cancel"](self._copier, job.lane, ctypes.addressof(job.raw))
            # One that is over already is still told of by its number alone.
            del self._jobs[job.number]
            self._late(job)

    def close(self) -> None:
        if self._copier:
            self._loop.remove_reader(self._event_fd)
            self._waits["stop"](self._copier)
            self._copier = None
            os.close(self._event_fd)
            self._jobs.clear()

    def _late(self, job: Job) -> None:
        """A job that was over before it was cancelled may still be in the list of those that are
        over: it is kept until that has been read."""
        self._loop.call_soon(self._ended, job)

    def _ended(self, _keep: Job | None = None) -> None:
        if not self._copier:
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event_fd)
        while True:
            count = self._functions["take"](self._copier, self._taken, _TAKEN_AT_ONCE)
            for number in self._taken[:count]:
                job = self._jobs.pop(number, None)
                if job is not None:
                    _tell(job)
            if count < _TAKEN_AT_ONCE:
                return


class PythonCopier(Copier):
    """One job after the other, lane by lane."""

    name = "python"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lanes: deque[deque[Job]] = deque()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._running: Job | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="copy blocks", daemon=True)
        self._thread.start()

    def lane(self) -> Any:
        lane: deque[Job] = deque()
        with self._lock:
            self._lanes.append(lane)
        return lane

    def end_lane(self, lane: Any) -> None:
        with self._lock:
            self._lanes = deque(each for each in self._lanes if each is not lane)

    def submit(
        self, lane: Any, source: Rows, target: Rows, size: int, on_done: Callable[[], None],
        keep: Any = None,
    ) -> Job:
        job = Job(lane, source, target, size, on_done, keep)
        with self._lock:
            lane.append(job)
            self._changed.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        with self._lock:
            job.stopped = True
            with contextlib.suppress(ValueError):
                job.lane.remove(job)
            while self._running is job:
                self._changed.wait()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._running.stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _next(self) -> Job | None:
        for _ in range(len(self._lanes)):
            self._lanes.rotate(-1)
            if self._lanes[-1]:
                return self._lanes[-1].popleft()
        return None

    def _run(self) -> None:
        while True:
            with self._lock:
                self._running = None
                self._changed.notify_all()
                while not self._closed and (job := self._next()) is None:
                    self._changed.wait()
                if self._closed:
                    return
                self._running = job
            assert job is not None
            for piece in _pieces(job):
                if job.stopped:
                    break
                ctypes.memmove(*piece)
            if not job.stopped:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(_tell, job)


def _pieces(job: Job) -> Any:
    """(target, source, size) of each run that is contiguous on both sides."""
    left, at, to = job.size, 0, 0
    while left:
        row, byte = divmod(at, job.source.width)
        target_row, target_byte = divmod(to, job.target.width)
        size = min(left, job.source.width - byte, job.target.width - target_byte)
        yield job.target.address(target_row) + target_byte, job.source.address(row) + byte, size
        at, to, left = at + size, to + size, left - size


def _tell(job: Job) -> None:
    if job.stopped:
        return
    try:
        job.on_done()
    except Exception:
        log.exception("the callback of a copy failed")


def _functions(name: str) -> dict[str, Any]:
    """Those that return at once: they keep the interpreter's lock, which is cheaper."""
    library = ctypes.PyDLL(name)
    start, lane, submit, take, end = (
        library.copier_start, library.copier_lane, library.copier_submit, library.copier_take,
        library.copier_end_lane,
    )
    start.argtypes, start.restype = [ctypes.c_int], _POINTER
    lane.argtypes, lane.restype = [_POINTER], _POINTER
    submit.argtypes, submit.restype = [_POINTER] * 3, None
    take.argtypes, take.restype = [_POINTER, _POINTER, ctypes.c_int], ctypes.c_int
    end.argtypes, end.restype = [_POINTER, _POINTER], None
    return {"start": start, "lane": lane, "submit": submit, "take": take, "end_lane": end}


def _waiting_functions(library: ctypes.CDLL) -> dict[str, Any]:
    """Those that may wait for a slice."""
    cancel, stop = library.copier_cancel, library.copier_stop
    cancel.argtypes, cancel.restype = [_POINTER] * 3, ctypes.c_int
    stop.argtypes, stop.restype = [_POINTER], None
    return {"cancel": cancel, "stop": stop}

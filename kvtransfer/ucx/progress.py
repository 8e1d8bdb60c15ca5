"""Drives a UCX worker from an event loop: no thread, no core burnt while nothing happens.

    event fd readable, or something was posted
        -> pass: progress, a bounded number of times -> finish what completed, a bounded number
        -> more to do? another pass on the next loop turn
        -> nothing left: arm; armed means asleep until the event fd is readable

Callbacks of operations run from a pass and only from there, so never from within a posting call.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import perf_counter

from baton.kvtransfer.transport import Operation
from baton.kvtransfer.ucx.binding import Worker, outcome
from baton.kvtransfer.ucx.outstanding import Entry, Outstanding

log = logging.getLogger(__name__)

PROGRESS_PER_PASS = 32
FINISH_PER_PASS = 128
FREE_SCAN = 64
"""So many operations are scanned whole before every sleep; more than that, at most every
`SCAN_SECONDS_EACH` times their number, which bounds scanning to a tenth of a core."""
SCAN_SECONDS_EACH = 1.5e-6
LINGER_SECONDS = 200e-6
"""After progress, go on polling for so long: a message comes in fragments, and two processes that
sleep between them spend ten times as long waking each other as moving bytes."""
BUSY_PASSES = 20
BUSY_PAUSE_SECONDS = (0.0001, 0.005)


class Progress:
    """Owns the operations under way on one worker."""

    def __init__(
        self,
        worker: Worker,
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[Operation, Exception | None], None],
    ) -> None:
        """`ended(operation, error)` is called once for each operation, from the loop."""
        self._worker = worker
        self._loop = loop
        self._ended = ended
        self.outstanding = Outstanding()
        self._finished: deque[Entry] = deque()
        self._failed: deque[tuple[Operation, Exception]] = deque()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._unscanned = False
        self._unlooked = False
        self._next_scan = 0.0
        self._awake_until = 0.0
        self._busy = 0
        self._pause = BUSY_PAUSE_SECONDS[0]
        self.watched: dict[int, Callable[[], None]] = {}
        """Tags whose messages are to be told of when they arrive. For a few at a time: each is
        looked for after every pass that made progress."""
        self._running = True
        self._listening = True
        loop.add_reader(worker.event_fd, self._pass)

    def posted(self) -> None:
        """Something was posted: it may have completed already, or need progress to begin."""
        self._unscanned = True
        self._unlooked = True
        self._schedule()

    def fail(self, operation: Operation, error: Exception) -> None:
        """End an operation that UCX does not hold, on the next turn of the loop."""
        self._failed.append((operation, error))
        self._schedule()

    def stop(self) -> None:
        """No pass and no callback after this."""
        if self._running:
            self._running = False
            self._loop.remove_reader(self._worker.event_fd)
            if self._timer is not None:
                self._timer.cancel()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._scheduled_pass)

    def _scheduled_pass(self) -> None:
        self._scheduled = False
        self._pass()

    def _pass(self) -> None:
        if not self._running:
            return
        idle = self._progress()
        self.outstanding.take_heads(self._finished)
        wait = 0.0
        if idle and self._unscanned and not self._finished:
            wait = self._scan()
        if self.watched and self._unlooked:
            self._look()
        if self._finished or self._failed:
            self._finish()
            self._schedule()
        elif not idle or perf_counter() < self._awake_until:
            self._schedule()
        else:
            self._sleep(wait)

    def _progress(self) -> bool:
        """Whether UCX had nothing left to do."""
        progress_once = self._worker.progress_once
        for _ in range(PROGRESS_PER_PASS):
            if not progress_once():
                return True
            self._unscanned = True
            self._unlooked = True
            self._awake_until = perf_counter() + LINGER_SECONDS
            self._busy = 0
            self._pause = BUSY_PAUSE_SECONDS[0]
        return False

    def _look(self) -> None:
        self._unlooked = False
        for tag in [tag for tag in self.watched if self._worker.has_arrived(tag)]:
            on_arrival = self.watched.pop(tag, None)
            if on_arrival is not None:
                try:
                    on_arrival()
                except Exception:
                    log.exception("the callback of an arrival failed")

    def _scan(self) -> float:
        """Look at every operation, unless many are under way and the last look is too recent:
        then the seconds to wait."""
        count = self.outstanding.count
        if count > FREE_SCAN:
            now = perf_counter()
            if now < self._next_scan:
                return self._next_scan - now
            self._next_scan = now + count * SCAN_SECONDS_EACH
        self._unscanned = False
        self.outstanding.take_all(self._finished)
        return 0.0

    def _finish(self) -> None:
        for _ in range(min(FINISH_PER_PASS, len(self._finished))):
            request, operation = self._finished.popleft()
            self._end(operation, outcome(request))
        # Those that a callback adds now are for the next pass: it might add one each time.
        for _ in range(len(self._failed)):
            operation, error = self._failed.popleft()
            self._end(operation, error)

    def _end(self, operation: Operation, error: Exception | None) -> None:
        try:
            self._ended(operation, error)
        except Exception:
            # A callback's mistake is its own: the operations behind it still have to report.
            log.exception("the callback of an operation failed")

    def _sleep(self, wait: float) -> None:
        """Until an event, and no longer than `wait` seconds if that is not zero."""
        if self._worker.arm():
            self._busy = 0
            if wait:
                self._call_later(wait)
            return
        self._busy += 1
        if self._busy <= BUSY_PASSES:
            self._schedule()
            return
        # UCX wants progress but makes none: a peer takes nothing, say because it is stopped. The
        # event fd may stay readable meanwhile, so it is not listened to.
        self._loop.remove_reader(self._worker.event_fd)
        self._listening = False
        shortest, longest = BUSY_PAUSE_SECONDS
        self._call_later(self._pause)
        self._pause = max(shortest, min(2 * self._pause, longest))

    def _call_later(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._timed_pass)

    def _timed_pass(self) -> None:
        self._timer = None
        if not self._listening:
            self._listening = True
            self._loop.add_reader(self._worker.event_fd, self._pass)
        self._pass()

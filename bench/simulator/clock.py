"""An event loop whose time stands still while anything runs, and then jumps to the next timer.

What waits for the clock of the running loop, as the router does, runs in it unchanged. One thread,
no sockets; what is due at the same time runs in the order in which it was asked for, so a run is
determined by its input.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from heapq import heappop, heappush
from typing import Any, TypeVar, cast

T = TypeVar("T")


class SimulatedLoop:
    """Starts at second 0. An exception in a callback ends the run and is raised by it. Of an event
    loop it has what pure asyncio code uses: time, timers, tasks and futures."""

    def __init__(self) -> None:
        self.as_loop = cast(asyncio.AbstractEventLoop, self)
        self._now = 0.0
        self._number = 0
        self._timers: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._running = False
        self._error: BaseException | None = None
        self.events = 0
        """Callbacks that have run."""

    def time(self) -> float:
        return self._now

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        """`call_at` without a handle: it cannot be cancelled, and costs a third."""
        self._number += 1
        heappush(self._timers, (when if when > self._now else self._now, self._number,
                                callback, args))

    @contextmanager
    def as_of(self, when: float) -> Iterator[None]:
        """It is an earlier time meanwhile, for what happened then and is made up for now. What it
        asks for may be due already, and then runs next."""
        now, self._now = self._now, when
        try:
            yield
        finally:
            self._now = now

    def run_as_of(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        """`callback` within `as_of`, at a fifth of its cost."""
        now, self._now = self._now, when
        try:
            callback(*args)
        finally:
            self._now = now

    def run_until(self, when: float) -> None:
        """Let everything happen that is due up to this second."""
        asyncio._set_running_loop(self.as_loop)
        self._running = True
        ready, timers = self._ready, self._timers
        try:
            while True:
                while ready:
                    self.events += 1
                    ready.popleft()._run()
                    if self._error is not None:
                        self._raise()
                if not timers or timers[0][0] > when:
                    break
                due, _, callback, args = heappop(timers)
                if due > self._now:  # not so for what was asked for within `as_of`
                    self._now = due
                self.events += 1
                callback(*args)
                if self._error is not None:
                    self._raise()
            self._now = max(self._now, when)
        finally:
            self._running = False
            asyncio._set_running_loop(None)

    def _raise(self) -> None:
        error, self._error = self._error, None
        assert error is not None
        raise error

    # -- what asyncio asks of a loop ---------------------------------------------------------

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self.as_loop, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self.as_loop, context)
        self.at(when, _run_timer, handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays where it is and does nothing when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.as_loop)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self.as_loop, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self._error is None:
            self._error = error or RuntimeError(context.get("message", "a callback failed"))

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False


def _run_timer(handle: asyncio.TimerHandle) -> None:
    if not handle.cancelled():
        handle._run()

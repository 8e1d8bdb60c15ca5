"""An event loop whose clock does not run while the process stands still.

On a busy machine the test process may stand still for seconds, at any line. To a test whose server,
client and timers all live on one loop that is no time in which anybody was slow: nobody ran. But
when it goes on, every timer on the loop is overdue at once: sessions end for silence, requests run
out of patience, and what the test waits for comes a moment too late.

So between two looks at the clock at most `STEP` seconds pass. A timer of a second needs some fifty
passes of the loop before it fires, in all of which whatever else is ready has its turn. Where
nothing stands still it is the time of any loop, but for callbacks that take longer than `STEP`.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable

STEP = 0.02
"""Seconds. Callbacks hardly ever take as long."""


class SteadyLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = self._now = clock()
        super().__init__(_SteadySelector(self.time))

    def time(self) -> float:
        looked = self._clock()
        self._now += min(STEP, looked - self._looked)
        self._looked = looked
        return self._now


class _SteadySelector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Sleeps in steps, so that all of a long sleep counts. Its caller sees none of that."""

    def __init__(self, look: Callable[[], float]) -> None:
        super().__init__()
        self._look = look

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        until = None if timeout is None else self._look() + timeout
        while True:
            left = STEP if until is None else min(STEP, until - self._look())
            ready: list[tuple[selectors.SelectorKey, int]] = super().select(max(0.0, left))
            if ready or (until is not None and self._look() >= until):
                return ready


class SteadyLoops(asyncio.DefaultEventLoopPolicy):
    """Makes every new loop of this process a steady one."""

    def new_event_loop(self) -> SteadyLoop:
        return SteadyLoop()

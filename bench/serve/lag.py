"""Was the client the bottleneck? What its own event loop and its sending added is measured.

Loop lag is taken by a thread that asks the loop, a hundred times a second, to note the time: what
it waits is what a packet that came just then would have waited for its time stamp.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from baton.bench.quantiles import quantile, quantiles

EVERY = 0.01
SHARE = 0.1
"""Of the median TTFT or ITL: a client whose 99th percentile of lag is above that is marked."""


@dataclass(slots=True)
class ClientLag:
    """Seconds."""

    loop: list[float] = field(default_factory=list)
    send: list[float] = field(default_factory=list)
    """From when a request was due to when it was sent, without those held by their
    conversation."""
    cpu: float = 0.0
    """CPU seconds that it used, of a second."""

    def summary(self) -> dict[str, object]:
        return {"loop_lag_ms": _spread(self.loop), "send_lag_ms": _spread(self.send),
                "cpu_share": round(self.cpu, 4)}

    def doubts(self, ttft: float | None, itl: float | None, share: float = SHARE) -> list[str]:
        """Which medians (in seconds) the lag is too large for, in words; none is good."""
        loop = quantile(self.loop, 0.99) or 0.0
        send = quantile(self.send, 0.99) or 0.0
        found = []
        if ttft and loop + send > share * ttft:
            found.append(
                f"TTFT is bounded to within {1e3 * (loop + send):.1f} ms, "
                f"{(loop + send) / ttft:.0%} of its median: the client was late by that at p99"
            )
        if itl and loop > share * itl:
            found.append(
                f"ITL is bounded to within {1e3 * loop:.1f} ms, {loop / itl:.0%} of its median: "
                "the client's loop was late by that at p99"
            )
        if self.cpu > 0.8:
            found.append(f"the client used {self.cpu:.0%} of a core: ask from several at once")
        return found


class LagMeter:
    """Use as a context manager, on the loop that is measured."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        self.cpu = 0.0
        self._loop = asyncio.get_running_loop()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> LagMeter:
        self._began = (time.perf_counter(), time.process_time())
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()
        wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        self.cpu = cpu / wall if wall > 0 else 0.0

    def _ask(self) -> None:
        while not self._over.wait(EVERY):
            self._loop.call_soon_threadsafe(self._note, time.perf_counter())

    def _note(self, asked: float) -> None:
        self._samples.append((asked, time.perf_counter() - asked))

    def since(self, moment: float) -> list[float]:
        """Lags in seconds, from a moment on the clock of `perf_counter`."""
        return [lag for asked, lag in self._samples if asked >= moment]


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p99 = quantiles(values, (0.5, 0.99))
    return {"p50": round(1e3 * float(p50), 3), "p99": round(1e3 * float(p99), 3),
            "max": round(1e3 * max(values), 3)}

"""A load that is ended as soon as it is certain that it will not attain what is wanted.

A search for a capacity spends half of its time on rates that are too high, where that shows early:
a request has missed when it ended late, was refused, or still runs when it would have to be over.
When more have missed than may, the rest is not sent. What was sent counts, so the share that
attained is below what is wanted, too.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from baton.bench.serve.asking import Asking
from baton.bench.serve.run import Run, serve
from baton.bench.serve.seen import UNFINISHED, Seen
from baton.bench.serve.served import Served
from baton.bench.workloads.arrival import Arrival

LOOK_SECONDS = 1.0


@dataclass
class Client:
    """A load generator for comparisons. `asking`: how requests look."""

    asking: Asking
    _watching: set[asyncio.Task[None]] = field(default_factory=set)

    async def __call__(
        self,
        url: str,
        arrivals: Iterable[Arrival],
        *,
        model: str,
        warmup: float,
        seconds: float,
        give_up: float | None = None,
        e2e: float | None = None,
    ) -> Served:
        """`give_up`: the wanted attainment, below which the rest need not be measured. `e2e`: one
        more target, in seconds. Raises ConfigError when the server cannot be asked."""
        stream = list(arrivals)
        stop = asyncio.Event()
        expected = sum(warmup <= arrival.at < warmup + seconds for arrival in stream)
        may_miss = expected if give_up is None else allowed(expected, give_up)

        def watch(run: Run) -> None:
            task = asyncio.create_task(self._look(run, warmup, may_miss, stop, e2e))
            self._watching.add(task)

        try:
            return await serve(url, stream, model=model, warmup=warmup, seconds=seconds,
                               asking=self.asking, stop=stop, watch=watch)
        finally:
            while self._watching:
                self._watching.pop().cancel()

    async def _look(
        self, run: Run, warmup: float, may_miss: int, stop: asyncio.Event, e2e: float | None
    ) -> None:
        while not stop.is_set():
            await asyncio.sleep(LOOK_SECONDS)
            counted = [seen for seen in run.seen if seen.due >= warmup]
            if misses(counted, run.now, e2e) > may_miss:
                stop.set()


def allowed(expected: int, wanted: float) -> int:
    """How many of so many may miss, and the share that is wanted attains nevertheless."""
    return math.floor((1 - wanted) * expected + 1e-9)  # 0.9 of 20 are 18, and not a little more


def misses(seen: Sequence[Seen], now: float, e2e: float | None = None) -> int:
    """Of these, those that have missed for certain by `now`, seconds since the load began."""
    return sum(_missed(one, now, e2e) for one in seen)


def _missed(seen: Seen, now: float, e2e: float | None) -> bool:
    if seen.ended is not None:
        # What became of it is known once its answer was read, which is a little later.
        return seen.outcome != UNFINISHED and not seen.attained(e2e)
    targets = seen.targets
    if seen.sent is None:
        return False
    # Whoever keeps all targets is over by then.
    over = math.inf if e2e is None else e2e
    if targets.ttft is not None and targets.itl is not None:
        over = min(over, targets.ttft + targets.itl * max(0, seen.asked - 1))
    return now - seen.sent > over

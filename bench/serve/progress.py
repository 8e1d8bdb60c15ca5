"""A line that says how a run is doing, while it does."""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from contextlib import suppress

from rich.console import Console
from rich.live import Live
from rich.text import Text

from baton.bench.quantiles import quantiles
from baton.bench.serve.run import Run
from baton.bench.serve.seen import CANCELLED, UNFINISHED

_EVERY = 0.5
_LAST = 200
"""Requests of which the figures are."""


class Progress:
    """Use as an async context manager. Nothing is shown where standard error is no terminal."""

    def __init__(self, shown: bool = True) -> None:
        self._console = Console(stderr=True)
        self._shown = shown and sys.stderr.isatty()
        self._run: Run | None = None
        self._task: asyncio.Task[None] | None = None

    def watch(self, run: Run) -> None:
        self._run = run

    async def __aenter__(self) -> Progress:
        if self._shown:
            self._task = asyncio.create_task(self._show())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _show(self) -> None:
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            while True:
                if self._run is not None:
                    live.update(Text(line(self._run)), refresh=True)
                await asyncio.sleep(_EVERY)


def line(run: Run) -> str:
    """How it is doing."""
    ends = Counter(one.outcome for one in run.seen if one.ended is not None)
    done = sum(number for end, number in ends.items() if end in ("stop", "length"))
    bad = sum(ends.values()) - done - ends[CANCELLED] - ends[UNFINISHED]
    last = [one for one in run.seen if one.ended is not None][-_LAST:]
    parts = [f"{run.now:6.1f} s"]
    if math.isfinite(run.until):
        parts[0] += f" of {run.until:g}"
    if run.now < run.warmup:
        parts.append("warm-up")
    parts += [f"{run.open} open", f"{done} done", f"{bad} refused or failed"]
    for name, values in (
        ("TTFT", [one.ttft for one in last if one.ttft is not None]),
        ("TPOT", [one.tpot for one in last if one.tpot is not None]),
    ):
        if values:
            p50, p99 = 1e3 * quantiles(values, (0.5, 0.99))
            parts.append(f"{name} {p50:.0f} / {p99:.0f} ms")
    return "  ".join(parts)

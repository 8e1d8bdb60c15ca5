"""How a child tells its launcher where it is: one JSON object per line on an inherited pipe.

    {"stage": "loading weights", "fraction": 0.4}     what it does now
    {"ready": true, "timings": {...}, "address": ...} it serves; once
    {"fatal": "one line"}                             why it is about to exit

A process started by hand has no such pipe; its writer then logs stages and does nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LOADING = "loading weights"
"""The stage of a process that has imported all it needs."""


@dataclass(frozen=True, slots=True)
class StatusReport:
    """One line from a child. Exactly one of `stage`, `ready`, `fatal` says something."""

    stage: str | None = None
    fraction: float | None = None
    ready: bool = False
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds per part of the start."""
    address: str | None = None
    """Where it serves: the router's URL."""
    details: dict[str, Any] = field(default_factory=dict)
    fatal: str | None = None


def parse_report(line: bytes | str) -> StatusReport:
    """Raises ValueError for a line that is no report."""
    plain = json.loads(line)
    if not isinstance(plain, dict):
        raise ValueError(f"not a status report: {plain!r}")
    try:
        return StatusReport(**plain)
    except TypeError as error:
        raise ValueError(f"not a status report: {error}") from error


def process_age() -> float:
    """Seconds since this process was started, to some 10 ms; 0 where that cannot be told."""
    try:
        stat = Path("/proc/self/stat").read_text()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return 0.0
    started = int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, uptime - started)


class StatusWriter:
    """The child's side. Safe from any thread. Each stage ends where the next begins, so the
    timings of a start add up by themselves; parts that ran side by side are given to `ready`."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._stage: str | None = None
        self._stage_began = 0.0
        self._timings: dict[str, float] = {}

    def spent(self, name: str, seconds: float) -> None:
        """A part of the start that is over, measured elsewhere."""
        with self._lock:
            self._timings[name] = self._timings.get(name, 0.0) + seconds

    def stage(self, name: str, fraction: float | None = None) -> None:
        """What happens now; repeat with a fraction within [0, 1] as it goes on."""
        with self._lock:
            if name != self._stage:
                self._close_stage()
                self._stage, self._stage_began = name, time.monotonic()
                if self._fd is None:
                    log.info("%s", name)
        report: dict[str, Any] = {"stage": name}
        if fraction is not None:
            report["fraction"] = round(fraction, 3)
        self._write(report)

    def ready(
        self,
        *,
        address: str | None = None,
        timings: dict[str, float] | None = None,
        **details: Any,
    ) -> None:
        """It serves. `timings` adds to, or replaces, the seconds that the stages took."""
        with self._lock:
            self._close_stage()
            merged = {**self._timings, **(timings or {})}
        report: dict[str, Any] = {
            "ready": True,
            "timings": {name: round(seconds, 4) for name, seconds in merged.items()},
        }
        if address is not None:
            report["address"] = address
        if details:
            report["details"] = details
        self._write(report)

    def fatal(self, message: str) -> None:
        """The cause, in one line; the caller exits next. Without a launcher it is the caller who
        prints it."""
        self._write({"fatal": " ".join(message.split())})

    @property
    def timings(self) -> dict[str, float]:
        """Seconds of the stages that have ended."""
        with self._lock:
            return dict(self._timings)

    @property
    def attached(self) -> bool:
        """True when a launcher listens."""
        return self._fd is not None

    def _close_stage(self) -> None:
        if self._stage is not None:
            spent = time.monotonic() - self._stage_began
            self._timings[self._stage] = self._timings.get(self._stage, 0.0) + spent
            self._stage = None

    def _write(self, report: dict[str, Any]) -> None:
        with self._lock:
            if self._fd is None:
                return
            try:
                os.write(self._fd, json.dumps(report).encode() + b"\n")
            except (BrokenPipeError, OSError):
                # The launcher is gone; the lifeline ends this process.
                self._fd = None

"""Children that nobody here started. What a child leaves behind becomes the launcher's when that
child ends (`lifeline.adopt_orphans`), and once it has ended itself it stays as a zombie until
somebody asks how.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

INTERVAL = 5.0
"""Seconds between two looks."""


class Strangers:
    """Reaps what was a zombie at two looks: who was only just started here may be unknown for a
    moment, and its end is for whoever waits for it."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def reap(self, ours: Collection[int]) -> list[int]:
        """`ours`: processes that somebody waits for. Returns the others that are gone now."""
        zombies = {pid for pid in _children() if pid not in ours and _is_zombie(pid)}
        reaped = sorted(zombies & self._seen)
        self._seen = zombies - self._seen
        for pid in reaped:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return reaped


def _children() -> Iterator[int]:
    """Of all threads of this process."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            yield from map(int, (task / "children").read_text().split())


def _is_zombie(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "Z"

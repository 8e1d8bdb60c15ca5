"""What the router says of its workers while something goes wrong, polled every few milliseconds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from baton.bench.faults.parts import Parts

INTERVAL = 0.01
"""Seconds; what is derived from the polls is known to about this."""


@dataclass(frozen=True, slots=True)
class Poll:
    at: float
    """Monotonic seconds, when the question was asked."""
    took: float
    """Seconds until the answer."""
    views: dict[str, dict[str, Any]]


class Watcher:
    """Polls from entry to exit."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self.polls: list[Poll] = []

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            began = time.monotonic()
            views = self._parts.views()
            if views:
                self.polls.append(Poll(began, time.monotonic() - began, views))

    # -- what happened -----------------------------------------------------------------------

    def lost_at(self, name: str, epoch: int, since: float) -> float | None:
        """When the router first said after `since` that this life is lost."""
        for poll in self.polls:
            if poll.at < since:
                continue
            view = poll.views.get(name)
            if view is None or view["state"] == "lost" or view["epoch"] != epoch:
                return poll.at + poll.took
        return None

    def slowest_answer(self, since: float, until: float) -> float:
        """Seconds that the router took at most to answer: whether it stalled."""
        return max((p.took for p in self.polls if since <= p.at <= until), default=0.0)

    def oldest_heartbeat(self, but: str, since: float, until: float) -> float:
        """Of all workers except `but`, seconds: whether one of them stalled."""
        return max(
            (
                view["heartbeat_age"]
                for poll in self.polls if since <= poll.at <= until
                for name, view in poll.views.items()
                if name != but and view["state"] != "lost" and view["heartbeat_age"] is not None
            ),
            default=0.0,
        )

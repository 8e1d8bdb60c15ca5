"""Counters of a listener or dialer, and a log that a hostile or broken peer cannot flood."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("baton.protocol.link")

LOG_INTERVAL = 1.0
"""Seconds between two log lines about malformed input from one listener or dialer."""


class LinkStats:
    """Cumulative counts, shared by all sessions of one listener or dialer."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.malformed_total = 0
        self.duplicates = 0
        """Records that arrived more than once."""
        self.resent = 0
        """Records sent again."""
        self.refused = 0
        """Handshakes refused, by us or by the peer."""
        self.handler_errors = 0
        self._next_log = 0.0
        self._unlogged = 0

    def malformed(self, what: str) -> None:
        """Count, and log at most once per LOG_INTERVAL, input that was dropped."""
        self.malformed_total += 1
        now = time.monotonic()
        if now < self._next_log:
            self._unlogged += 1
            return
        more = f" ({self._unlogged} more since the last report)" if self._unlogged else ""
        log.warning("%s: dropped malformed input: %.300s%s", self.name or "session", what, more)
        self._next_log = now + LOG_INTERVAL
        self._unlogged = 0

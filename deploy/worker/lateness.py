"""Whether this process stood still for longer than its sessions live. Pure.

A worker that was stopped and goes on has been given up by its routers and peers: its requests run
elsewhere. It wakes in the midst of all that it was doing, and the only clean thing that it can do
is to end. Its supervisor starts another, which is a new epoch: whatever names the old one fails at
once. Whoever was cut off, but ran, is no such case: by its own clock it ended everything when the
others did, and it joins again with its weights and its cache.
"""

from __future__ import annotations

from baton.protocol.link.settings import LinkSettings

LATE_EXIT = 75
"""The exit status then: a failure, and one that may be tried again (EX_TEMPFAIL)."""


class Lateness:
    """`limit`: seconds between two looks that are too many."""

    def __init__(self, limit: float | None = None) -> None:
        self._limit = LinkSettings().lost_after if limit is None else limit
        self._looked: float | None = None

    def look(self, now: float) -> float | None:
        """To be called far more often than `limit`; the seconds since the last look if they were
        too many."""
        gap = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        return gap if gap >= self._limit else None

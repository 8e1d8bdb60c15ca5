"""How many attempts may be repeated at once: a share of the requests that come. Pure.

A request that was declined is tried again elsewhere. When much is declined, trying again at once
would add to what the workers cannot do; beyond the budget it waits before it is tried again, but
not for long, however many were declined. What has begun to answer is not counted: its reader waits
for the next token, so it has to go on, as what lost its worker has.
"""

from __future__ import annotations

SHARE = 0.2
"""Retries that one request brings."""
PER_SECOND = 2.0
"""And a second, so that it is never the end."""
MOST = 50.0
LONGEST = 5.0
"""Seconds that one waits at most; by then many others have been tried as well."""


class RetryBudget:
    def __init__(self) -> None:
        self._left = MOST
        self._at = 0.0

    def request(self) -> None:
        """One more has come."""
        self._left = min(MOST, self._left + SHARE)

    def take(self, now: float) -> float:
        """Seconds to wait before the next retry: 0 within the budget."""
        self._left = min(MOST, self._left + PER_SECOND * max(0.0, now - self._at))
        self._at = now
        self._left = max(self._left - 1, -LONGEST * PER_SECOND)
        return max(0.0, -self._left / PER_SECOND)

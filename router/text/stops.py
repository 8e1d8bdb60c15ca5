"""Stop strings over text that arrives in pieces. Pure.

The result does not depend on how the text was cut: the stop string that is complete first wins
(of two that are complete at the same character, the one that began first), and the text ends
where it began.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Feed text, get back what may be shown. Holds back only what may yet become a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.matched: str | None = None
        """The stop string that was found; nothing may be fed after it."""

    def feed(self, text: str) -> str:
        """Text that is now certain to be before any stop string."""
        window = self._held + text
        best: tuple[int, int] | None = None
        for stop in self._stops:
            start = window.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best):
                best = (start + len(stop), start)
                self.matched = stop
        if best is not None:
            self._held = ""
            return window[: best[1]]
        keep = self._possible_start(window)
        self._held = window[keep:]
        return window[:keep]

    def flush(self) -> str:
        """No more text will come: what was held back is no stop string."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, window: str) -> int:
        """The first index from which the rest of `window` is the beginning of a stop string."""
        for start in range(max(0, len(window) - self._longest + 1), len(window)):
            tail = window[start:]
            if any(stop.startswith(tail) for stop in self._stops):
                return start
        return len(window)

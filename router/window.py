"""How the lanes have fared in the last minute: rates, latencies, and how many kept their targets.
Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from baton.router.account import Account

WINDOW = 60.0
"""Seconds."""
_MAX_ENTRIES = 100_000


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """In seconds; None when nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


class LaneSummary(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    """That ended in the window, the refused ones included."""
    per_second: float
    refused: int
    failed: int
    attained: float | None
    """The share of all that kept both targets; refused and failed ones did not. What the client
    gave up before its first token does not count."""
    ttft: Quantiles
    itl: Quantiles
    """Of the means of the requests."""


class _Entry(NamedTuple):
    at: float
    lane: str
    outcome: str
    ttft: float | None
    itl: float | None
    attained: bool | None


class Window:
    """Of choices that ended, by lane."""

    def __init__(self, seconds: float = WINDOW) -> None:
        self._seconds = seconds
        self._entries: deque[_Entry] = deque(maxlen=_MAX_ENTRIES)
        self._since: float | None = None

    def add(self, account: Account, now: float) -> None:
        if self._since is None:
            self._since = now
        self._entries.append(_Entry(
            now, account.lane, account.outcome, account.ttft, account.itl, account.attained
        ))
        self._forget(now)

    def summary(self, now: float) -> dict[str, LaneSummary]:
        """By lane, in alphabetic order; lanes without an entry are not there."""
        self._forget(now)
        since = now if self._since is None else self._since
        seconds = max(1.0, min(self._seconds, now - since))
        lanes: dict[str, list[_Entry]] = {}
        for entry in self._entries:
            lanes.setdefault(entry.lane, []).append(entry)
        return {lane: _summary(entries, seconds) for lane, entries in sorted(lanes.items())}

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0].at < now - self._seconds:
            self._entries.popleft()


def _summary(entries: list[_Entry], seconds: float) -> LaneSummary:
    judged = [entry.attained for entry in entries if entry.attained is not None]
    return LaneSummary(
        requests=len(entries),
        per_second=len(entries) / seconds,
        refused=sum(entry.outcome == "refused" for entry in entries),
        failed=sum(entry.outcome == "failed" for entry in entries),
        attained=sum(judged) / len(judged) if judged else None,
        ttft=_quantiles([entry.ttft for entry in entries if entry.ttft is not None]),
        itl=_quantiles([entry.itl for entry in entries if entry.itl is not None]),
    )


def _quantiles(values: Sequence[float]) -> Quantiles:
    ordered = sorted(values)

    def at(share: float) -> float | None:
        if not ordered:
            return None
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Quantiles(p50=at(0.5), p95=at(0.95), p99=at(0.99))

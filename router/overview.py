"""What `baton top` and dashboards ask for: how things stand, in one look."""

from __future__ import annotations

import msgspec

from baton.router.account import Account
from baton.router.window import LaneSummary
from baton.router.worker_view import WorkerView

SHOWN = 10
"""Requests that ended last."""


class LaneView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    ttft: float
    """Targets, in seconds."""
    itl: float
    waiting: int
    """In this router's queue."""
    summary: LaneSummary | None
    """Of the last minute; None when nothing of this lane ended in it."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None
    in_flight: int
    queue: int
    lanes: list[LaneView]
    workers: list[WorkerView]
    decisions: list[Account]
    """The choices that ended last, latest first."""

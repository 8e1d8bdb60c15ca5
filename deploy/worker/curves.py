"""What a worker has learned of its steps and links, and when that is news to its routers."""

from __future__ import annotations

import math

from baton.engine.commands import StepStats
from baton.engine.step_fit import StepFit
from baton.kvtransfer.link_fit import LinkFits
from baton.protocol.curves import LinkCurve, StepCurve, StepShape
from baton.protocol.records import Curves

_PROBES = (
    StepShape.decodes(1, 256),
    StepShape.decodes(16, 16 * 1024),
    StepShape.chunk(64),
    StepShape.chunk(512, 2048),
    StepShape.chunk(128) + StepShape.decodes(8, 8 * 512),
)
_TRANSFERS = (64 << 10, 16 << 20)
"""Predictions for these are compared."""
_NEWS = 0.03
"""Predictions that moved by so much, relatively, are worth a message."""
_SPREAD_NEWS = 0.25


class CurveKeeper:
    """On the I/O thread. `profile`: where the fit of the steps starts."""

    def __init__(self, profile: StepCurve | None = None) -> None:
        self._steps = StepFit(profile)
        self._links: LinkFits[str] = LinkFits()
        self._told: Curves | None = None
        self._new = profile is not None

    def step(self, stats: StepStats) -> None:
        self._steps.observe(stats.shape, stats.seconds)
        self._new = True

    def transfer(self, peer: str, num_bytes: int, seconds: float) -> None:
        """So many bytes went to this worker (by its id), the link's own time."""
        self._links.observe(peer, num_bytes, seconds)
        self._new = True

    def link(self, peer: str) -> LinkCurve | None:
        """None while nothing went to this worker."""
        return self._links.curve(peer)

    def current(self) -> Curves:
        """All there is, for a router that has just come."""
        return Curves(
            step=self._steps.curve() if self._steps.known else None,
            links=tuple(self._links.curves()),
        )

    def take(self) -> Curves | None:
        """The same for all routers, if it has changed enough since the last time."""
        if not self._new:
            return None
        self._new = False
        curves = self.current()
        if self._told is not None and not _differ(self._told, curves):
            return None
        self._told = curves
        return curves


def _differ(old: Curves, new: Curves) -> bool:
    if (old.step is None) != (new.step is None):
        return True
    if old.step is not None and new.step is not None and _steps_differ(old.step, new.step):
        return True
    links = dict(old.links)
    return any(
        peer not in links or _links_differ(links[peer], curve) for peer, curve in new.links
    )


def _steps_differ(old: StepCurve, new: StepCurve) -> bool:
    return (
        new.steps >= 2 * old.steps + 1
        or _moved(old.spread, new.spread, _SPREAD_NEWS)
        or any(_moved(old.seconds(probe), new.seconds(probe), _NEWS) for probe in _PROBES)
    )


def _links_differ(old: LinkCurve, new: LinkCurve) -> bool:
    return (
        new.transfers >= 2 * old.transfers + 1
        or _moved(old.spread, new.spread, _SPREAD_NEWS)
        or any(_moved(old.seconds(size), new.seconds(size), _NEWS) for size in _TRANSFERS)
    )


def _moved(old: float, new: float, by: float) -> bool:
    if old <= 0 or new <= 0:
        return old != new
    return abs(math.log(new / old)) > by

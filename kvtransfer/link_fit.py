"""What a worker learns of its links: seconds over bytes, one curve per peer. Pure.

A transfer is timed at the sender from the first message posted to the last one complete, while
its bytes had the link: one that only waited for its prompt to be computed says nothing of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

from baton.protocol.curve_fit import CurveFit
from baton.protocol.curves import LinkCurve

_PROPORTIONS = (1.0, 1e-6)
"""Latency weighs as much as a megabyte, until transfers of several sizes say better."""
_TRUST = 3.0


class LinkFit:
    """One link."""

    def __init__(self) -> None:
        self._fit = CurveFit(_PROPORTIONS, trust=_TRUST, guessed=True)

    def observe(self, num_bytes: int, seconds: float) -> None:
        """Durations that cannot be are ignored."""
        self._fit.observe((1.0, num_bytes), seconds)

    def curve(self) -> LinkCurve:
        latency, byte = self._fit.coefficients
        return LinkCurve(
            latency=latency,
            byte=byte,
            spread=self._fit.spread,
            transfers=self._fit.count,
            covariance=self._fit.covariance(),
        )


Peer = TypeVar("Peer", bound=Hashable)


class LinkFits(Generic[Peer]):
    """All links of a worker, at most `limit`: the one unused for longest is forgotten first."""

    def __init__(self, limit: int = 1024) -> None:
        self._fits: dict[Peer, LinkFit] = {}
        self._limit = limit

    def observe(self, peer: Peer, num_bytes: int, seconds: float) -> None:
        """Durations that cannot be are ignored."""
        if num_bytes <= 0 or not seconds > 0:
            return
        fit = self._fits.pop(peer, None) or LinkFit()
        fit.observe(num_bytes, seconds)
        self._fits[peer] = fit
        if len(self._fits) > self._limit:
            del self._fits[next(iter(self._fits))]

    def forget(self, peer: Peer) -> None:
        self._fits.pop(peer, None)

    def curve(self, peer: Peer) -> LinkCurve | None:
        fit = self._fits.get(peer)
        return None if fit is None else fit.curve()

    def curves(self) -> Sequence[tuple[Peer, LinkCurve]]:
        """The most recently used link last."""
        return [(peer, fit.curve()) for peer, fit in self._fits.items()]

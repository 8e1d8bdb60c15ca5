"""What a stated layout is worth: pools of workers of given kinds, and links between them. Pure.

`split.py` divides the workers there are; here it is said which workers do what, which may be of
other kinds by role. The forecast is the same.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from baton.protocol.curves import LinkCurve
from baton.router.planner.phases import Kind
from baton.router.planner.split import Fleet, Forecast, Group, Split
from baton.router.planner.transfers import Traffic, request_bytes, traffic
from baton.router.planner.workload import Workload

_FULL = 0.95
"""Of a link: beyond this, waiting for it has no end."""
_IDLE = 1e-3
"""Of the bound: nobody waits for anybody."""
_STEPS = 14
"""Of the bisection: within a part in 16,000 of the upper bound."""


class Device(NamedTuple):
    """One worker's: how fast it is, and what leaves it."""

    kind: Kind
    link: LinkCurve
    token_bytes: float
    """Of KV, for each token."""


class Sized(NamedTuple):
    """So many workers of a kind."""

    device: Device
    workers: int


class Capacity(NamedTuple):
    rate: float
    """Requests per second: the most at which the wanted share attains its targets."""
    forecast: Forecast
    """At that rate."""
    traffic: Traffic | None
    """None where nothing is handed over."""
    binds: str
    """What ends first: "prefill", "decode", "all", "link", or a target, "ttft" or "itl"."""


class LayoutModel:
    """Pools by role; those that are None do not exist. Raises ValueError when nobody reads prompts
    or nobody writes."""

    def __init__(
        self,
        workload: Workload,
        *,
        prefill: Sized | None = None,
        mixed: Sized | None = None,
        decode: Sized | None = None,
    ) -> None:
        pools = [pool for pool in (prefill, mixed, decode) if pool is not None]
        self.split = Split(*(0 if p is None else p.workers for p in (prefill, decode, mixed)))
        if not self.split.serves:
            raise ValueError(f"{self.split} cannot serve")
        self.workload = workload
        self._groups = [Group(pool.device.kind, pool.workers) for pool in pools]
        # Without workers for prompts, mixed ones hand over what they do not decode.
        self._sender = prefill or mixed
        self._receivers = max(1, self.split.decode + self.split.mixed)
        self._fleet = Fleet(self._groups, workload, in_order=True)
        limit = self._fleet.capacity(self.split)
        self._moved = max(limit[1], limit[2])
        """The share of requests that is read by one worker and decoded by another, at least: all
        that workers for prompts read, and all that workers for decoding write."""
        self.bound = min(limit[0], self._link_bound())
        """Requests per second that it cannot exceed."""
        self._binds = "link" if self.bound < limit[0] else limit[3]

    def traffic(self, rate: float) -> Traffic | None:
        sender = self._sender
        if self._moved <= 0 or sender is None:
            return None
        return traffic(
            self.workload, sender.device.link, sender.device.token_bytes, sender.device.kind,
            rate=rate * self._moved, senders=sender.workers, receivers=self._receivers,
        )

    def forecast(self, rate: float) -> Forecast:
        """At so many requests per second, with what hand-offs cost then."""
        handed = self.traffic(min(rate, _FULL * self.bound))
        exposed = 0.0 if handed is None else min(handed.exposed, 1e3)
        if exposed == 0.0:
            return self._fleet.forecast(self.split, rate)
        fleet = Fleet(self._groups, self.workload, exposed, in_order=True)
        return fleet.forecast(self.split, rate)

    def capacity(self, attainment: float) -> Capacity:
        """The rate up to which so many attain; 0 where they do not even alone."""
        low, high = 0.0, self.bound
        if self.forecast(_IDLE * min(high, 1e9)).goodput < attainment:
            high = 0.0  # not even alone: no rate is low enough
        if high == math.inf:
            high = 1.0
            while self.forecast(high).goodput >= attainment and high < 1e9:
                low, high = high, 4 * high
        for _ in range(_STEPS if high > 0 else 0):
            middle = (low + high) / 2
            if self.forecast(middle).goodput >= attainment:
                low = middle
            else:
                high = middle
        found = self.forecast(low if low > 0 else _IDLE * min(self.bound, 1e9))
        return Capacity(low, found, self.traffic(low), self._binding(low, found))

    # -- inside ----------------------------------------------------------------------------------

    def _link_bound(self) -> float:
        sender = self._sender
        if self._moved <= 0 or sender is None:
            return math.inf
        each = request_bytes(self.workload, sender.device.token_bytes) * self._moved
        senders = sender.device.link.bandwidth * min(sender.workers, self._receivers)
        return _FULL * senders / each if each > 0 else math.inf

    def _binding(self, rate: float, found: Forecast) -> str:
        """What ends it: something is used up, or a target is missed before."""
        if rate >= 0.93 * self.bound:
            return self._binds
        return "ttft" if found.attained_ttft <= found.attained_itl else "itl"

"""How many devices there may be, what they cost, and by what layouts are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.layout import Layout

_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What there may be."""

    gpus: int
    prices: tuple[float | None, ...]
    """For an hour of one device, by kind."""
    cost: float | None = None
    """For an hour of all, at most."""
    rate: float | None = None
    """Requests per second to serve; None: as many as can be."""
    by_cost: bool = False
    use_all: bool = False
    """Though fewer may do, no layout leaves out a device that could be used."""

    def price(self, layout: Layout, kinds: Sequence[WorkerKind]) -> float | None:
        """Of an hour; None where it is not known."""
        total = 0.0
        for pool in layout.pools:
            price = self.prices[pool.kind]
            if price is None:
                return None
            total += pool.workers * kinds[pool.kind].devices * price
        return total

    def allows(self, layout: Layout, kinds: Sequence[WorkerKind]) -> bool:
        if layout.devices(kinds) > self.gpus:
            return False
        price = self.price(layout, kinds)
        return self.cost is None or price is None or price <= self.cost * (1 + 1e-9)

    @property
    def all_of_them(self) -> bool:
        return self.use_all or self.rate is None

    def gpus_of(self, layout: Layout, kinds: Sequence[WorkerKind]) -> int:
        """GPUs that its goodput is divided by: its own; but where all are to be used, all that
        there are, its idle ones with them. With a budget nobody can say how many these are: it
        buys more of the cheap kind."""
        if self.all_of_them and self.cost is None:
            return self.gpus
        return layout.devices(kinds)

    def money_of(self, layout: Layout, kinds: Sequence[WorkerKind]) -> float | None:
        """For a second, by which its goodput is divided: its own; but where all is to be used, the
        whole budget. None where it is not known."""
        if self.all_of_them and self.cost is not None:
            return self.cost / _HOUR
        price = self.price(layout, kinds)
        return None if price is None else price / _HOUR

    def divisor(self, layout: Layout, kinds: Sequence[WorkerKind]) -> float:
        """By which any rate of it is divided before it is compared with another layout's: GPUs, or
        money for a second, so that requests for a unit of money are compared."""
        if self.by_cost:
            return self.money_of(layout, kinds) or math.inf
        return float(self.gpus_of(layout, kinds))

    def score(
        self, capacity: float, layout: Layout, kinds: Sequence[WorkerKind]
    ) -> tuple[bool, float, float]:
        """What is greater is better: whether it serves what was asked for; then goodput for each
        GPU or unit of money, or, of those that do not serve it, how much of it; then what it has
        to spare."""
        divisor = self.divisor(layout, kinds)
        if self.rate is None:
            return True, float(f"{capacity / divisor:.4g}"), capacity
        enough = capacity >= self.rate
        goodput = self.rate / divisor if enough else capacity
        return enough, float(f"{goodput:.4g}"), capacity / divisor

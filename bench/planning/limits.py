"""How many devices there may be, what they cost, and by what layouts are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.layout import Layout


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

    def divisor(self, layout: Layout, kinds: Sequence[WorkerKind]) -> float:
        """What goodput is divided by. Where all are to be used, all that there are count."""
        if self.by_cost:
            if self.all_of_them and self.cost is not None:
                return self.cost
            return self.price(layout, kinds) or math.inf
        return float(self.gpus if self.all_of_them else layout.devices(kinds))

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

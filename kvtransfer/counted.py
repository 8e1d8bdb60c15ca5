"""An operation, and what has to be counted at its end."""

from __future__ import annotations

from collections.abc import Callable

from baton.kvtransfer.traffic import Traffic
from baton.kvtransfer.transport import Buffer, Operation

OnDone = Callable[[Operation], None]


class CountedOperation(Operation):
    __slots__ = ("num_bytes", "traffic")

    def __init__(self, buffer: Buffer, on_done: OnDone, num_bytes: int, traffic: Traffic) -> None:
        super().__init__(buffer, on_done)
        self.num_bytes = num_bytes
        self.traffic = traffic

"""An operation of the UCX transport, and what has to be counted at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from baton.kvtransfer.traffic import Traffic
from baton.kvtransfer.transport import Buffer, Operation

if TYPE_CHECKING:
    from baton.kvtransfer.ucx.transport import UcxEndpoint

OnDone = Callable[[Operation], None]


class UcxOperation(Operation):
    """`endpoint` is None for a receive."""

    __slots__ = ("endpoint", "num_bytes", "traffic")

    def __init__(
        self,
        buffer: Buffer,
        on_done: OnDone,
        num_bytes: int,
        traffic: Traffic,
        endpoint: UcxEndpoint | None,
    ) -> None:
        super().__init__(buffer, on_done)
        self.num_bytes = num_bytes
        self.traffic = traffic
        self.endpoint = endpoint

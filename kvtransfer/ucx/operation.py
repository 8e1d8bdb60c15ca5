"""An operation of the UCX transport, and whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from baton.kvtransfer.counted import CountedOperation, OnDone
from baton.kvtransfer.traffic import Traffic
from baton.kvtransfer.transport import Buffer

if TYPE_CHECKING:
    from baton.kvtransfer.ucx.transport import UcxEndpoint


class UcxOperation(CountedOperation):
    """`endpoint` is None for a receive."""

    __slots__ = ("endpoint",)

    def __init__(
        self,
        buffer: Buffer,
        on_done: OnDone,
        num_bytes: int,
        traffic: Traffic,
        endpoint: UcxEndpoint | None,
    ) -> None:
        super().__init__(buffer, on_done, num_bytes, traffic)
        self.endpoint = endpoint

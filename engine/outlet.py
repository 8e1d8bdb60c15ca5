"""How a stage speaks to the router that a request came from."""

from __future__ import annotations

from typing import Protocol

from baton.protocol.ids import RequestKey
from baton.protocol.records import Record


class Outlet(Protocol):
    def tell(self, key: RequestKey, record: Record) -> None:
        """Send a record about this attempt to its router."""

    def forget(self, key: RequestKey) -> None:
        """This worker has nothing more to say about the attempt."""

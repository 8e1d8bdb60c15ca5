"""KV on its way between two simulated workers: of a prompt, a loan, or a request that moves.

    sender's work begins  --ready blocks-->  moving  --all sent, done-->  sealed --> acknowledged
    receiver has reserved --grant---------->

Either end may come first, or alone. What the hand-off machines of `baton.kvtransfer` guard against
does not happen here, so there are no machines; the times are theirs: blocks travel while later
ones are computed, one message at a time leaves a worker and one reaches it, and the seal follows
the last byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from baton.protocol.ids import Identity, RequestKey


class End(Protocol):
    """A worker, as its peers reach it."""

    identity: Identity
    ingress_free: float
    """When what is on its way to it already will be there, in seconds."""

    def on_granted(self, transfer: Transfer) -> None: ...

    def on_sealed(self, transfer: Transfer) -> None: ...

    def on_acknowledged(self, transfer: Transfer) -> None: ...

    def on_broken(self, transfer: Transfer) -> None:
        """The other end has given it up, or is gone."""


class Kind(Enum):
    PREFILL = "prefill"
    LOAN = "loan"
    MIGRATION = "migration"


@dataclass(slots=True, eq=False)
class Transfer:
    key: RequestKey
    """As the engines know it: of a loan, its `loan_key`."""
    sender: Identity
    receiver: Identity
    kind: Kind = Kind.PREFILL
    """The sender says."""
    cached: int | None = None
    """Leading blocks that the receiver has; None until it has reserved room for the others."""
    granted_at: float = 0.0
    ready: int = 0
    """Leading blocks that are computed."""
    sent: int = 0
    done: bool = False
    """No more will become ready."""
    sealed: bool = False
    tokens: tuple[int, ...] = ()
    arrives: float = 0.0
    """When the last byte that was sent is there, in seconds."""
    over: bool = False


class Network:
    """Who is there, and which transfers are under way. Each end asks for its transfer by name and
    gets the one that the other end may have opened."""

    def __init__(self) -> None:
        self._ends: dict[Identity, End] = {}
        self._transfers: dict[tuple[RequestKey, Identity, Identity], Transfer] = {}

    def join(self, end: End) -> None:
        self._ends[end.identity] = end

    def leave(self, end: End) -> None:
        """It is gone, without a word."""
        self._ends.pop(end.identity, None)
        for transfer in list(self._transfers.values()):
            if end.identity in (transfer.sender, transfer.receiver):
                self.end(transfer)
                other = transfer.receiver if end.identity == transfer.sender else transfer.sender
                if other in self._ends:
                    self._ends[other].on_broken(transfer)

    def end_of(self, identity: Identity) -> End | None:
        return self._ends.get(identity)

    def transfer(self, key: RequestKey, sender: Identity, receiver: Identity) -> Transfer:
        place = (key, sender, receiver)
        transfer = self._transfers.get(place)
        if transfer is None:
            transfer = self._transfers[place] = Transfer(key, sender, receiver)
        return transfer

    def end(self, transfer: Transfer) -> None:
        """Idempotent."""
        transfer.over = True
        self._transfers.pop((transfer.key, transfer.sender, transfer.receiver), None)

    @property
    def under_way(self) -> int:
        return len(self._transfers)

"""Receivers whose sessions broke: they are dialled again, for they may wait for answers to a
grant that we never saw. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from baton.protocol.ids import Identity
from baton.protocol.records import WorkerRef

DEBT_SECONDS = 600.0
"""What is given up after this costs the receiver quarantined blocks, never wrong ones."""

_REDIAL_SECONDS, _MAX_REDIAL_SECONDS = 0.5, 30.0
"""Between attempts; doubled each time."""


@dataclass(slots=True)
class _Debt:
    receiver: WorkerRef
    until: float
    dial_at: float
    wait: float = _REDIAL_SECONDS


class Debts:
    def __init__(self) -> None:
        self._debts: dict[Identity, _Debt] = {}

    def __bool__(self) -> bool:
        return bool(self._debts)

    @property
    def receivers(self) -> set[Identity]:
        return set(self._debts)

    def owe(self, receiver: WorkerRef, now: float) -> None:
        """The session with it broke."""
        self._debts[receiver.identity] = _Debt(
            receiver, now + DEBT_SECONDS, now + _REDIAL_SECONDS
        )

    def settle(self, peer: Identity) -> None:
        """There is a session again, in which it names what it awaits."""
        self._debts.pop(peer, None)

    def due(self, now: float, refused: Callable[[Identity], bool]) -> list[WorkerRef]:
        """Whom to dial now. Those that are given up are forgotten; so are those that `refused`:
        that life is over, and awaits nothing."""
        found: list[WorkerRef] = []
        for peer, debt in list(self._debts.items()):
            if now >= debt.until or refused(peer):
                del self._debts[peer]
            elif now >= debt.dial_at:
                debt.wait = min(2 * debt.wait, _MAX_REDIAL_SECONDS)
                debt.dial_at = now + debt.wait
                found.append(debt.receiver)
        return found

"""Accounts of flights: those that run now, the last that ended, and the lanes' last minute."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from baton.router.account import Account
from baton.router.window import LaneSummary, Window

LEAST_PREFIX = 20
"""Characters of an id that name it well enough, as tables show them."""
MAX_ENDED = 2000
"""Choices that can still be explained, a few KiB each."""


class History:
    """`journal`: where each account goes that is complete."""

    def __init__(
        self, journal: Callable[[Account], None] | None = None, max_ended: int = MAX_ENDED
    ) -> None:
        self._journal = journal
        self._max_ended = max_ended
        self._ended: OrderedDict[str, Account] = OrderedDict()
        """By id, the oldest first."""
        self._window = Window()

    def ended(self, account: Account, now: float) -> None:
        self._window.add(account, now)
        self._ended[account.id] = account
        self._ended.move_to_end(account.id)
        while len(self._ended) > self._max_ended:
            self._ended.popitem(last=False)
        if self._journal is not None:
            self._journal(account)

    def latest(self, limit: int) -> list[Account]:
        """The last that ended, latest first."""
        found: list[Account] = []
        for account in reversed(self._ended.values()):
            if len(found) == limit:
                break
            found.append(account)
        return found

    def of(self, response_id: str, running: Iterable[Account] = ()) -> list[Account]:
        """All choices of a response (or one, by its own id), in their order. The first LEAST_PREFIX
        characters of the id will do."""
        wanted = [a for a in running if _is_of(a.id, response_id)]
        wanted += [a for a in self._ended.values() if _is_of(a.id, response_id)]
        return sorted(wanted, key=lambda account: (len(account.id), account.id))

    def lanes(self, now: float) -> dict[str, LaneSummary]:
        return self._window.summary(now)


def _is_of(account_id: str, response_id: str) -> bool:
    if len(response_id) >= LEAST_PREFIX and account_id.startswith(response_id):
        return True
    return account_id == response_id or account_id.startswith(f"{response_id}/")

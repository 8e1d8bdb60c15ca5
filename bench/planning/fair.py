"""Which of the requests that a router tells of are a fair sample of what comes. Pure.

A router tells of requests that have ended, and of the last of these only. So of those that arrived
just now the long ones are missing, and of those that arrived long ago the short ones:

        forgotten          told of                 run still
    ... - - - - - | ------------------------- | - - - - - - - - |
                  oldest end                  latest - life     latest end

Taken are those that arrived in between: of them all are told of. `life` is what all but a hundredth
of requests live.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from baton.protocol.units import format_duration
from baton.router.account import Account

WINDOW = 300.0
"""Seconds of arrivals that are looked at."""
FEWEST = 20
"""Requests to say anything of."""
_ALL_BUT = 0.99
_MORE = 1.5
"""Times as many requests as lengths and rate explain that may run without a word."""


class Sample(NamedTuple):
    accounts: tuple[Account, ...]
    """By arrival."""
    remarks: tuple[str, ...]
    """Why it may not be fair."""


def fair(
    accounts: Sequence[Account], *, forgets: bool, in_flight: int, window: float = WINDOW
) -> Sample:
    """`accounts`: that have ended or run, in any order. `forgets`: there were more, which ended
    before these. `in_flight`: requests that the router has now."""
    ended = sorted((a for a in accounts if a.outcome != "running"), key=lambda a: a.arrived)
    if len(ended) < FEWEST:
        return Sample(tuple(ended), ())
    lives = [account.e2e or 0.0 for account in ended]
    ends = [account.arrived + life for account, life in zip(ended, lives, strict=True)]
    latest = max(ends)
    since = min(ends) if forgets else -math.inf
    life = float(np.quantile(lives, _ALL_BUT, method="higher"))
    until = latest - life
    taken = [a for a in ended if max(since, until - window) <= a.arrived <= until]
    if len(taken) < FEWEST:
        # Of what ended in a stretch of time lengths and number are fair as long as the load stays.
        by_end = [a for a, end in zip(ended, ends, strict=True) if end >= latest - window]
        return Sample(tuple(by_end), (
            f"requests live up to {format_duration(life)}, about as long as those go back that are "
            "known: of what comes now the long ones are missing" + (
                "; --journal FILE has more" if forgets else ""),
        ))
    return Sample(tuple(taken), tuple(_running(taken, in_flight)))


def _running(taken: Sequence[Account], in_flight: int) -> list[str]:
    """By Little's law."""
    seconds = max(1e-3, taken[-1].arrived - taken[0].arrived)
    expected = sum(account.e2e or 0.0 for account in taken) / seconds
    if in_flight <= _MORE * expected + 3 * math.sqrt(expected) + 3:
        return []
    return [
        f"{in_flight} requests run, {expected:.0f} would at the rate and the lengths of those that "
        "ended: the load grows, or answers are longer than any that ended"
    ]

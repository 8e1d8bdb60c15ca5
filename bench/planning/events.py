"""What a user lets happen to workers while they are simulated: `--fail decode-0@60s+20s` kills one
at second 60, and it is back 20 s later; `--join decode@90s+30s` asks for one more, which is there
after a cold start.

Workers have the names that `baton up` gives them: each role counts from 0 (2p+1d has prefill-0,
prefill-1 and decode-0), and who joins is the next of its role. The simulator counts through all of
them. Seconds are those of the part that counts.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from baton.bench.durations import duration
from baton.bench.planning.layout import ROLES
from baton.bench.simulator.events import Event, Fails, Joins, in_order
from baton.protocol.errors import ConfigError

AROUND = (10.0, 20.0)
"""Seconds before and after something happened that show what it did."""
_FAIL = re.compile(rf"((?:{'|'.join(ROLES)})-\d+)@([^@+]+)(?:\+([^@+]+))?")
_JOIN = re.compile(rf"({'|'.join(ROLES)})@([^@+]+)(?:\+([^@+]+))?")
_NAME = re.compile(rf"\b(?:{'|'.join(ROLES)})-\d+\b")


@dataclass(frozen=True)
class Happening:
    """Checked: all of it can be. `names`: of the simulator's workers, as people say them."""

    events: tuple[Event, ...] = ()
    names: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """That must count, so that what follows from the last event is among it."""
        return max((_over(event) for event in self.events), default=0.0) + AROUND[1]

    def after(self, seconds: float) -> list[Event]:
        """The events of a run whose first so many seconds do not count."""
        return [replace(event, at=event.at + seconds) for event in self.events]


def read_events(
    fails: Sequence[str], joins: Sequence[str], roles: Sequence[str]
) -> Happening:
    """`roles`: of the workers, in the simulator's order. Raises ConfigError that says what cannot
    be, before anything runs."""
    both: list[Fails | Joins] = [*map(_join, joins), *map(_fail, fails)]
    asked = sorted(both, key=lambda event: event.at)
    names = _spoken([*roles, *(event.role for event in asked if isinstance(event, Joins))])
    back = {spoken: name for name, spoken in names.items()}
    events: list[Event] = []
    for event in asked:
        if isinstance(event, Fails):
            if event.worker not in back:
                raise ConfigError(f"--fail {event.worker}: no such worker; there are: "
                                  f"{', '.join(sorted(back))}")
            event = replace(event, worker=back[event.worker])
        events.append(event)
    try:
        in_order(events, list(names)[: len(roles)])
    except ConfigError as error:
        told = _NAME.sub(lambda found: names.get(found[0], found[0]), str(error))
        raise ConfigError(f"--fail, --join: {told}") from error
    return Happening(tuple(events), names)


# -- inside ----------------------------------------------------------------------------------


def _spoken(roles: Sequence[str]) -> dict[str, str]:
    """The simulator's names of workers, and those that count within each role."""
    return {
        f"{role}-{number}": f"{role}-{roles[:number].count(role)}"
        for number, role in enumerate(roles)
    }


def _fail(text: str) -> Fails:
    found = _FAIL.fullmatch(text.replace(" ", ""))
    if found is None:
        _wrong("--fail", text, "WORKER@TIME[+BACK], such as decode-0@60s+20s")
    return Fails(at=_seconds("--fail", text, found[2]), worker=found[1],
                 back_after=None if found[3] is None else _seconds("--fail", text, found[3]))


def _join(text: str) -> Joins:
    found = _JOIN.fullmatch(text.replace(" ", ""))
    if found is None:
        _wrong("--join", text, "ROLE@TIME[+START], such as decode@60s+30s")
    return Joins(at=_seconds("--join", text, found[2]), role=found[1],
                 start_seconds=_seconds("--join", text, found[3]) if found[3] else 0.0)


def _seconds(option: str, text: str, part: str) -> float:
    try:
        return duration(part)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"{option} {text}: {error}") from error


def _wrong(option: str, text: str, right: str) -> NoReturn:
    raise ConfigError(f"{option} {text!r}: must be {right}; roles are {', '.join(ROLES)}")


def _over(event: Event) -> float:
    """When all of it has happened."""
    if isinstance(event, Fails):
        return event.at + (event.back_after or 0.0)
    return event.at + (event.start_seconds if isinstance(event, Joins) else 0.0)

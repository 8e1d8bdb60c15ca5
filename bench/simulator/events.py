"""What happens to the workers of a simulated cluster, said before it runs: who dies and comes back,
who joins, who becomes slow. `Cluster.schedule` takes them; names are checked there."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from baton.bench.simulator.machine import Machine
from baton.protocol.errors import ConfigError

DETECTION = 0.05
"""Seconds after which routers and other workers know that a worker's process is gone. On its own
host the kernel says so within milliseconds; elsewhere its connections break, which has to last for
0.8 s before it counts (`protocol/link/`), so say so there."""


@dataclass(frozen=True, kw_only=True)
class Fails:
    """A worker's process is killed; others know it `noticed` seconds later."""

    at: float
    """Second of the run."""
    worker: str
    """Its name, as `decode-1`."""
    back_after: float | None = None
    """Seconds from its death until its next life, with nothing in its cache, is ready: until the
    supervisor has noticed, weights are loaded, kernels are warm. None: it does not come back."""
    noticed: float = DETECTION


@dataclass(frozen=True, kw_only=True)
class Joins:
    """One more worker is asked for."""

    at: float
    role: str
    start_seconds: float = 0.0
    """From then until it is ready for requests: a cold start."""
    machine: Machine | None = None
    """None: as the first worker of this role, or the first of all."""


@dataclass(frozen=True, kw_only=True)
class Slows:
    """A worker's steps take `factor` times as long as its curve says, from then on. 1: as before.
    Its next life is not concerned."""

    at: float
    worker: str
    factor: float


Event = Fails | Joins | Slows


def in_order(events: Iterable[Event], workers: Collection[str]) -> list[tuple[Event, str]]:
    """By time, each with the name of its worker; those that join are named as a cluster names
    them, `ROLE-NUMBER`, counting on from the `workers` that there are. Raises ConfigError that says
    what cannot be: a time that has no sense, a worker that is not there, or not alive, then."""
    ordered = sorted(events, key=lambda event: event.at)
    known = set(workers)
    back: dict[str, float] = {}
    """When those that were killed or have to start are there; infinite: never."""
    named: list[tuple[Event, str]] = []
    for event in ordered:
        _check_numbers(event)
        if isinstance(event, Joins):
            name = f"{event.role}-{len(known)}"
            known.add(name)
            back[name] = event.at + event.start_seconds
        else:
            name = event.worker
            if name not in known:
                raise ConfigError(
                    f"{_what(event)} {name} at {event.at:g} s, and there is no such worker then, "
                    f"only {', '.join(sorted(known)) or 'none'}"
                )
            if event.at < back.get(name, 0.0):
                raise ConfigError(
                    f"{_what(event)} {name} at {event.at:g} s, when it is not running"
                )
        if isinstance(event, Fails):
            back[name] = math.inf if event.back_after is None else event.at + event.back_after
        named.append((event, name))
    return named


def _what(event: Event) -> str:
    return {Fails: "fails:", Joins: "joins:", Slows: "slows:"}[type(event)]


def _check_numbers(event: Event) -> None:
    durations = {
        Fails: ("at", "back_after", "noticed"), Joins: ("at", "start_seconds"), Slows: ("at",)
    }
    for name in durations[type(event)]:
        value = getattr(event, name)
        if value is not None and not 0 <= value < math.inf:
            raise ConfigError(f"{_what(event)} {name} of {value} seconds")
    if isinstance(event, Joins) and event.role not in ("prefill", "decode", "mixed"):
        raise ConfigError(f"joins: there is no role {event.role}")
    if isinstance(event, Fails) and event.back_after is not None and (
        event.back_after < event.noticed
    ):
        raise ConfigError(
            f"fails: {event.worker} is back after {event.back_after:g} s, before anybody has "
            f"noticed its death ({event.noticed:g} s)"
        )
    if isinstance(event, Slows) and not 0 < event.factor < math.inf:
        raise ConfigError(f"slows: a factor of {event.factor}")

"""Lanes: classes of requests, what is wanted for each, and how they share the workers. Pure.

| lane | TTFT | ITL | patience | weight | for |
|---|---|---|---|---|---|
| interactive | 2 s | 100 ms | 60 s | 10 | people (`service_tier` auto, default, priority) |
| batch | 60 s | 1 s | 600 s | 1 | work that may wait (`service_tier` flex) |

A *target* is what is aimed for. *Patience* is how long after its arrival a first token is still
worth having: what is predicted to come later is refused at once. *Weight* is the share of a lane
while others wait too. Every default is written here, once.

Targets that somebody asked for are *firm*: requests wait, or are refused, where taking them on
would break them. The defaults only say which way is better: late is better than not at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec

from baton.protocol.errors import BatonError, ConfigError
from baton.protocol.records import Deadlines, Request, Targets
from baton.protocol.units import parse_duration

INTERACTIVE, BATCH = "interactive", "batch"

PATIENCE_FACTOR = 10.0
LEAST_PATIENCE = 1.0
"""Where only a TTFT is given, the patience is so many times that, and at least so many seconds."""

TIERS: dict[str, tuple[str, int]] = {
    "auto": (INTERACTIVE, 0),
    "default": (INTERACTIVE, 0),
    "priority": (INTERACTIVE, 1),
    "flex": (BATCH, 0),
}
"""What a `service_tier` means: lane and priority."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_FORM = "NAME:ttft=2s,itl=100ms,patience=10s,weight=10"


@dataclass(frozen=True, slots=True)
class Lane:
    """Seconds throughout. Raises ConfigError for values that cannot be."""

    name: str
    ttft: float
    itl: float
    patience: float
    weight: float
    firm: bool = True
    """Somebody asked for these targets."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"a lane's name is a lower-case letter, then up to 31 of a-z, 0-9, - and _, got "
                f"{self.name!r:.60}"
            )
        for what in ("ttft", "itl", "patience", "weight"):
            value = getattr(self, what)
            if not 0 < value < float("inf"):
                raise ConfigError(f"lane {self.name}: {what} must be above 0, got {value:g}")
        if self.patience < self.ttft:
            raise ConfigError(
                f"lane {self.name}: patience ({self.patience:g} s) must not be below ttft "
                f"({self.ttft:g} s), or requests that keep their target would be refused"
            )

    @property
    def targets(self) -> Targets:
        return Targets(ttft=self.ttft, itl=self.itl, firm=self.firm)

    def complete(self, request: Request) -> Request:
        """With this lane's targets, unless it has some, and no deadline that ends it before the
        lane's patience does."""
        changes: dict[str, object] = {}
        if request.targets == Targets():
            changes["targets"] = self.targets
        deadlines = request.deadlines
        if deadlines == Deadlines() and deadlines.first_token < 2 * self.patience:
            changes["deadlines"] = Deadlines(first_token=2 * self.patience)
        return msgspec.structs.replace(request, **changes) if changes else request


DEFAULT_LANES = (
    Lane(INTERACTIVE, ttft=2.0, itl=0.1, patience=60.0, weight=10.0, firm=False),
    Lane(BATCH, ttft=60.0, itl=1.0, patience=600.0, weight=1.0, firm=False),
)


class Lanes:
    """Those of one router, by name. `interactive` is always among them."""

    def __init__(self, lanes: Iterable[Lane] = DEFAULT_LANES) -> None:
        self._lanes = {lane.name: lane for lane in lanes}
        if INTERACTIVE not in self._lanes:
            raise ConfigError(f"there must be a lane {INTERACTIVE}: requests take it by default")

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def named(self, name: str, param: str | None = None) -> Lane:
        """Raises BatonError(invalid_value) that lists the lanes; `param`: where the name was."""
        lane = self._lanes.get(name)
        if lane is None:
            raise BatonError(
                "invalid_value",
                f"there is no lane {name!r:.60}; the lanes are {', '.join(self._lanes)}",
                param=param,
            )
        return lane

    def choose(self, name: str | None, tier: str | None) -> tuple[Lane, int]:
        """Lane and priority of a request that named a lane (`x-baton-lane`), or a `service_tier`,
        or both: the lane's name counts then. Raises BatonError(invalid_value)."""
        of_tier, priority = TIERS[tier or "auto"]
        if name is not None:
            return self.named(name, "x-baton-lane"), priority
        return self.named(of_tier, "service_tier"), priority


def configure(
    ttft: float | None = None, itl: float | None = None, specs: Iterable[str] = ()
) -> tuple[Lane, ...]:
    """The lanes of a router: the defaults, with the targets of `interactive` where given, and what
    `specs` (`--lane`) change or add. Raises ConfigError that names the option."""
    lanes = {lane.name: lane for lane in DEFAULT_LANES}
    lanes[INTERACTIVE] = _changed(lanes[INTERACTIVE], {"ttft": ttft, "itl": itl})
    for spec in specs:
        name, values = _parse(spec)
        base = lanes.get(name)
        if base is None:  # as interactive, with the least weight of all
            least = min(lane.weight for lane in lanes.values())
            base = replace(lanes[INTERACTIVE], name=name, weight=least)
        lanes[name] = _changed(base, values)
    return tuple(lanes.values())


def _changed(lane: Lane, values: dict[str, float | None]) -> Lane:
    given = {what: value for what, value in values.items() if value is not None}
    if "ttft" in given and "patience" not in given:
        given["patience"] = max(PATIENCE_FACTOR * given["ttft"], LEAST_PATIENCE)
    return Lane(
        lane.name,
        ttft=given.get("ttft", lane.ttft),
        itl=given.get("itl", lane.itl),
        patience=given.get("patience", lane.patience),
        weight=given.get("weight", lane.weight),
        firm=lane.firm or "ttft" in given or "itl" in given,
    )


def _parse(spec: str) -> tuple[str, dict[str, float | None]]:
    name, colon, rest = spec.partition(":")
    if not colon or not _NAME.fullmatch(name):
        raise ConfigError(f"--lane must be as in {_FORM}, got {spec!r:.100}")
    values: dict[str, float | None] = {}
    for part in rest.split(","):
        what, _, text = part.strip().partition("=")
        if what not in ("ttft", "itl", "patience", "weight"):
            raise ConfigError(
                f"--lane {name}: {part!r:.60} is none of ttft=, itl=, patience=, weight="
            )
        try:
            values[what] = float(text) if what == "weight" else parse_duration(text)
        except ValueError as error:
            raise ConfigError(f"--lane {name}: {what}: {error}") from error
    return name, values

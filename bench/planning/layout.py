"""Which workers do what: pools by role, of kinds of workers. As text `2p+1d`, `4m`, or
`2p@tp1+1d@tp2` where there are kinds of several sizes; `~` before it lets any worker do both where
that costs less."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.plan import COLOCATED, DISAGGREGATED, HYBRID
from baton.protocol.errors import ConfigError

ROLES = ("prefill", "mixed", "decode")
"""In the order of `Layout.pools`."""
_LETTERS = {"p": "prefill", "m": "mixed", "d": "decode"}
_PART = re.compile(r"(\d+)\s*([pmd])(?:refill|ixed|ecode)?(?:@(.+))?")
_FORM = "2p+1d, 4m, 1p+2m or, with kinds of several sizes, 2p@tp1+1d@tp2"


@dataclass(frozen=True, slots=True)
class Role:
    """So many workers of a kind with one role."""

    role: str
    workers: int
    kind: int
    """Its place in the list of kinds."""


@dataclass(frozen=True, slots=True)
class Layout:
    pools: tuple[Role, ...]
    """At most one for each role."""
    strict: bool = True
    """Workers keep to their roles, and those that do both never hand over; otherwise the router
    decides for each request by cost."""

    @property
    def shape(self) -> str:
        if not self.strict:
            return HYBRID
        return COLOCATED if self.pool("mixed") is not None else DISAGGREGATED

    @property
    def by_cost(self) -> bool:
        """Hybrid though all workers are of the roles of a shape that is not."""
        return not self.strict and (self.pool("mixed") is None or len(self.pools) == 1)

    @property
    def workers(self) -> int:
        return sum(pool.workers for pool in self.pools)

    def pool(self, role: str) -> Role | None:
        return next((pool for pool in self.pools if pool.role == role), None)

    def count(self, role: str) -> int:
        pool = self.pool(role)
        return 0 if pool is None else pool.workers

    def devices(self, kinds: Sequence[WorkerKind]) -> int:
        return sum(pool.workers * kinds[pool.kind].devices for pool in self.pools)

    def code(self, kinds: Sequence[WorkerKind]) -> str:
        """What `parse_layout` reads; a `~` before it says that roles are not strict."""
        parts = [
            f"{pool.workers}{pool.role[0]}" + (
                f"@{kind_name(kinds, pool.kind)}" if len(kinds) > 1 else ""
            )
            for pool in self.pools
        ]
        return ("~" if self.by_cost else "") + "+".join(parts)

    def name(self, kinds: Sequence[WorkerKind]) -> str:
        """For people."""
        parts = [
            f"{pool.workers} {pool.role}" + (
                f" {kind_name(kinds, pool.kind).upper()}" if len(kinds) > 1 else ""
            )
            for pool in self.pools
        ]
        return " + ".join(parts) + (", by cost" if self.by_cost else "")


def kind_name(kinds: Sequence[WorkerKind], place: int) -> str:
    """Short, and unlike all others': `tp2`, or with the machine's name where sizes do not tell."""
    kind = kinds[place]
    alike = [other for other in kinds if other.devices == kind.devices]
    if len(alike) == 1:
        return f"tp{kind.devices}"
    names = [other.machine.name for other in kinds]
    return kind.machine.name if names.count(kind.machine.name) == 1 else f"kind{place}"


def make_layout(
    kinds: Sequence[WorkerKind], *, strict: bool = True, **counts: tuple[int, int]
) -> Layout:
    """`make_layout(kinds, prefill=(2, 0), decode=(1, 1))`: (workers, kind) by role."""
    assert all(kind < len(kinds) for _, kind in counts.values())
    return Layout(
        tuple(Role(role, *counts[role]) for role in ROLES if role in counts and counts[role][0]),
        strict,
    )


def parse_layout(text: str, kinds: Sequence[WorkerKind]) -> Layout:
    """Raises ConfigError that says what would be right."""
    strict = not text.startswith("~")
    pools: dict[str, Role] = {}
    names = [kind_name(kinds, place) for place in range(len(kinds))]
    for part in text.removeprefix("~").replace(" ", "").split("+"):
        match = _PART.fullmatch(part)
        if match is None or int(match[1]) == 0:
            raise ConfigError(f"{text!r} is no layout such as {_FORM}")
        role = _LETTERS[match[2]]
        if role in pools:
            raise ConfigError(f"{text!r} has two pools for {role}: give one number for each role")
        if match[3] is not None and match[3] not in names:
            raise ConfigError(f"{text!r}: no workers {match[3]!r}; there are: {', '.join(names)}")
        pools[role] = Role(role, int(match[1]), names.index(match[3]) if match[3] else 0)
    if "mixed" not in pools and set(pools) != {"prefill", "decode"}:
        lacking = "decode" if "prefill" in pools else "prefill"
        raise ConfigError(f"{text!r} leaves nobody to {lacking}: a layout is {_FORM}")
    strict = strict and not ("mixed" in pools and len(pools) > 1)
    return Layout(tuple(pools[role] for role in ROLES if role in pools), strict)

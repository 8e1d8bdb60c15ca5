"""Which workers change their role, and what that costs. Pure.

A role changes at once, but what a worker had from its old one runs on beside the new: answers that
it decodes, prompts that wait. Until these are gone it gives its new role only a part of itself. How
long that takes is measured with every change, and is the price of the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from baton.router.planner.phases import Kind
from baton.router.planner.split import Group, Split

ROLES = ("prefill", "decode", "mixed")
FIRST_GUESS = 5.0
"""Seconds that a change is taken to cost before one was measured."""
_WEIGHT = 0.3
_BOUNDS = (0.5, 60.0)


class WorkerState(NamedTuple):
    """A worker that takes requests."""

    name: str
    role: str
    kind: Kind
    pinned: bool = False
    """A person chose its role."""
    decoding: int = 0
    """Sequences that it decodes."""
    prefilling: int = 0
    """Requests whose first token it owes."""
    backlog: float = 0.0
    """Seconds until all prompts there are read."""


class Move(NamedTuple):
    worker: str
    role: str
    before: str


def split_of(workers: Sequence[WorkerState]) -> Split:
    return Split(*(sum(worker.role == role for worker in workers) for role in ROLES))


def groups_of(workers: Sequence[WorkerState]) -> list[Group]:
    """Workers that are about as fast as each other and hold about as much count as alike: that two
    curves were fitted to two machines of a kind says little."""
    groups: list[list[WorkerState]] = []
    for worker in workers:
        for group in groups:
            if _alike(group[0].kind, worker.kind):
                group.append(worker)
                break
        else:
            groups.append([worker])
    return [Group(group[0].kind, len(group)) for group in groups]


def _alike(one: Kind, other: Kind) -> bool:
    """Within a quarter."""

    def near(a: float, b: float) -> bool:
        return abs(a - b) <= 0.25 * max(a, b)

    def reading(kind: Kind) -> float:
        return kind.curve.prefill_seconds(1024, 0, 512)

    def writing(kind: Kind) -> float:
        return kind.curve.base + 16 * (kind.curve.decode + 1024 * kind.curve.context)

    return (
        near(reading(one), reading(other))
        and near(writing(one), writing(other))
        and near(one.kv_tokens, other.kv_tokens)
    )


def choose(workers: Sequence[WorkerState], target: Split) -> list[Move] | None:
    """The changes that lead to `target`, by the workers that they disturb least. None where pinned
    workers stand in the way."""
    now = split_of(workers)
    lacking = {role: getattr(target, role) - getattr(now, role) for role in ROLES}
    moves: list[Move] = []
    free = [worker for worker in workers if not worker.pinned]
    for role in ROLES:
        while lacking[role] > 0:
            donors = [worker for worker in free if lacking[worker.role] < 0]
            if not donors:
                return None
            donor = min(donors, key=lambda worker: (_disturbed(worker, role), worker.name))
            free.remove(donor)
            lacking[role] -= 1
            lacking[donor.role] += 1
            moves.append(Move(donor.name, role, donor.role))
    return moves


def _disturbed(worker: WorkerState, role: str) -> float:
    """What runs on beside its new role."""
    if role == "prefill":
        return float(worker.decoding)
    if role == "decode":
        return worker.backlog
    return worker.decoding + worker.backlog


@dataclass(slots=True)
class Moving:
    """One change that is under way."""

    move: Move
    since: float
    left: float = math.inf
    """Of its old work, when last looked at."""


class MoveCost:
    """Seconds of a worker that a change costs, as measured."""

    def __init__(self, guess: float = FIRST_GUESS) -> None:
        self.seconds = guess
        self.measured = 0
        self._moving: dict[str, Moving] = {}

    def of(self, answer: float) -> float:
        """Seconds, where an answer takes so many: while none was measured, that is how long a
        worker has those of its old role."""
        if self.measured or not math.isfinite(answer):
            return self.seconds
        return min(2 * self.seconds, max(_BOUNDS[0], answer))

    @property
    def under_way(self) -> int:
        return len(self._moving)

    def ordered(self, move: Move, now: float) -> None:
        self._moving[move.worker] = Moving(move, now)

    def watch(self, workers: Sequence[WorkerState], now: float) -> None:
        """Whoever has its new role and nothing of the old one is done. One that is gone tells
        nothing, nor does one that is given such work again, beside its new role; one that takes
        for ever is given up."""
        here = {worker.name: worker for worker in workers}
        for name, moving in list(self._moving.items()):
            worker = here.get(name)
            took = now - moving.since
            if worker is not None and worker.role != moving.move.role and took <= _BOUNDS[1]:
                continue
            left = math.inf if worker is None else _left(worker)
            if left == 0:
                took = min(_BOUNDS[1], max(_BOUNDS[0], took))
                self.measured += 1
                weight = 1.0 if self.measured == 1 else _WEIGHT
                self.seconds += weight * (took - self.seconds)
            if left == 0 or worker is None or left > moving.left or took > _BOUNDS[1]:
                del self._moving[name]
            moving.left = left


def _left(worker: WorkerState) -> float:
    """Of what was its old role's: requests."""
    if worker.role == "prefill":
        return float(worker.decoding)
    return 0.0 if worker.role == "mixed" else float(worker.prefilling)

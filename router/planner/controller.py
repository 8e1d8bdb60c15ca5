"""When to change how many workers read and how many write. Pure: `tick(now)`, and no clock.

    each second     has the load changed? can a pool no longer drain its queue?
    each interval   plan the split; at once and every second for a while when the load began or
                    changed, workers came or went, or a queue does not drain
    a plan          moves in one go, if it gains more than moving costs, wherever the truth lies
                    within the error of what was observed

So a steady load moves nothing, however noisy. A shift may cost `max_moves` changes; they are to be
had again with the next shift, or after a pause.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from baton.router.planner.moves import Move, MoveCost, WorkerState, choose, groups_of, split_of
from baton.router.planner.observation import Estimate, Observation
from baton.router.planner.reasons import Entry, explain, skipped
from baton.router.planner.relief import Relief
from baton.router.planner.split import Fleet, Forecast, Split, Steps, finish

_STRESS = (1.0, 1.1)
"""Loads at which splits are compared, in terms of the one observed: what just suffices does not."""
_DRAIN = 20.0
"""Seconds within which what waits should be gone: it counts as load."""
_MOST_WAITING = 0.3
_CANDIDATES = 5
_LOG = 256


class Cluster(NamedTuple):
    """What the controller sees."""

    workers: tuple[WorkerState, ...]
    """That take requests and whose speed is known."""
    queued: int = 0
    """Requests that no worker has yet."""
    handoff: float = 0.0
    """Seconds of a typical transfer that no computation hides."""
    others: float = 1.0
    """All requests there are, for each that `observation` sees: other routers have theirs."""


class _Option(NamedTuple):
    value: float
    """Mean gain over what the load may be, less `cost`."""
    worst: float
    """Gain at the least, as a share of all requests."""
    cost: float
    found: Forecast
    moves: list[Move]


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    interval: float = 10.0
    """Seconds between plans while nothing happens."""
    settling: float = 15.0
    """Seconds after a change of the load within which plans come every `hurry`."""
    hurry: float = 1.0
    max_moves: int = 3
    """Role changes for each shift of the load, of up to 8 workers; of more in proportion."""
    pause: float = 45.0
    """Seconds after which they are to be had again without a shift."""
    horizon: float = 60.0
    """Seconds over which a move has to pay off, of a load that is younger than that."""
    least_gain: float = 0.01
    """Share of requests by which another split must be better, beside what moving costs."""
    doubt: float = 1.3
    """Standard errors of what was observed, within which it must be better."""


class Controller:
    """`look` shows the cluster. Feed `observation` with requests; apply what `tick` returns."""

    def __init__(
        self, look: Callable[[], Cluster], settings: ControllerSettings | None = None
    ) -> None:
        self.observation = Observation()
        self.settings = settings or ControllerSettings()
        self.cost = MoveCost()
        self.log: deque[Entry] = deque(maxlen=_LOG)
        """Decisions, the latest last; of those that change nothing only the first in a row."""
        self.last: Entry | None = None
        """The latest, whatever it was."""
        self._look = look
        self._relief = Relief()
        self._moves_left = self.settings.max_moves
        self._refill_at = -math.inf
        self._plan_at = -math.inf
        self._settling_until = -math.inf
        self._fleet: tuple[tuple[str, ...], int] | None = None

    def tick(self, now: float, *, act: bool = True) -> list[Move]:
        """`steps`, all at once."""
        return finish(self.steps(now, act=act))

    def steps(self, now: float, *, act: bool = True) -> Steps[list[Move]]:
        """To be begun about once a second, and carried on as there is time: the changes to order
        then, mostly none. Without `act` decisions are only logged."""
        cluster = self._look()
        self.cost.watch(cluster.workers, now)
        trigger = self._trigger(cluster, now)
        if trigger is None:
            return []
        yield
        entry = yield from self._plan(cluster, trigger, now)
        unsettled = now < self._settling_until or self.observation.age(now) < self.settings.settling
        hurried = not entry.moves and (unsettled or entry.estimate is None)
        self._plan_at = now + (self.settings.hurry if hurried else self.settings.interval)
        self._enter(entry)
        if not act:
            return []
        for move in entry.moves:
            self.cost.ordered(move, now)
        if entry.moves:
            self._moves_left -= len(entry.moves)
            self._refill_at = now + self.settings.pause
            self._settling_until = -math.inf
        return list(entry.moves)

    # -- inside --------------------------------------------------------------------------------

    def _trigger(self, cluster: Cluster, now: float) -> str | None:
        most = self.settings.max_moves * max(8, len(cluster.workers)) // 8
        if now >= self._refill_at:
            self._moves_left = most
        fleet = (tuple(sorted(w.name for w in cluster.workers)), len(cluster.workers))
        if self.observation.changed(now):
            self._moves_left = most
            self._settling_until = now + self.settings.settling
            self._relief.reset()
            self._fleet = fleet
            return "shift"
        if fleet != self._fleet:
            first = self._fleet is None
            self._fleet = fleet
            if not first:
                self._settling_until = now + self.settings.settling
                return "workers"
        if self._relief.starving(cluster.workers, cluster.queued, now):
            return "starvation"
        return "interval" if now >= self._plan_at else None

    def _plan(self, cluster: Cluster, trigger: str, now: float) -> Steps[Entry]:
        workers = cluster.workers
        current = split_of(workers)
        estimate = self.observation.estimate(now)
        if estimate is not None and cluster.others != 1.0:
            estimate = replace(estimate, workload=estimate.workload.scaled(rate=cluster.others))
        if not workers:
            return skipped(now, trigger, current, "no worker whose speed is known")
        if not current.serves:
            # One that does both is enough for now.
            others = Split(max(0, current.prefill - 1), max(0, current.decode - 1), 1)
            rescue = choose(workers, others)
            if rescue:
                return _moving(now, trigger, workers, rescue, "nobody does one of the phases")
        if self.cost.under_way and trigger == "interval":
            return skipped(now, trigger, current, "the last changes are not done")
        yield
        if estimate is None:
            entry = skipped(now, trigger, current, "too few requests to tell")
        else:
            entry = yield from self._compare(cluster, trigger, current, estimate, now)
        if trigger == "starvation" and self._moves_left > 0 and not entry.moves:
            relief = self._relief.move(workers, None if estimate is None else estimate.workload)
            if relief is not None:
                entry = _moving(now, trigger, workers, [relief], self._relief.reason)
        if trigger == "starvation" and entry.moves:
            self._relief.reset()
        return entry

    def _compare(
        self, cluster: Cluster, trigger: str, current: Split, estimate: Estimate, now: float
    ) -> Steps[Entry]:
        worlds = yield from self._worlds(cluster, estimate)
        here = worlds[0].forecast(current)
        near = yield from worlds[0].search(max(0, self._moves_left), current)
        waiting = cluster.queued / (estimate.workload.rate * _DRAIN)
        load = 1.0 + min(_MOST_WAITING, waiting)
        stay = [_score(world, current, load) for world in worlds]
        # What has lasted for long will last as long again.
        horizon = max(self.settings.horizon, self.observation.age(now))
        share = self.cost.of(estimate.workload.gaps * here.itl) / (len(cluster.workers) * horizon)
        options: list[_Option] = []
        for found in near[: _CANDIDATES + 1]:
            moves = choose(cluster.workers, found.split)
            if moves:
                gains = []
                for world, score in zip(worlds, stay, strict=True):
                    yield
                    gains.append(_score(world, found.split, load) - score)
                cost = len(moves) * share + self.settings.least_gain
                options.append(_Option(
                    sum(gains) / len(gains) - cost, min(gains), cost, found, moves
                ))
        if not options:
            left = self._moves_left > 0
            why = "there is no other split" if left else "moved enough for this load"
            return Entry(now, trigger, current, current, (), why, estimate, here, here)
        best = max(options, key=lambda option: option.value)
        reason = explain(current, here, best.found, best.worst, best.cost)
        worth = best.worst > best.cost
        return Entry(
            now, trigger, current, best.found.split if worth else current,
            tuple(best.moves) if worth else (), reason, estimate, here, best.found,
        )

    def _worlds(self, cluster: Cluster, estimate: Estimate) -> Steps[list[Fleet]]:
        """What was observed, and what it may be in truth."""
        groups = groups_of(cluster.workers)
        reading = self.settings.doubt * min(0.5, estimate.prefill_error)
        writing = self.settings.doubt * min(0.5, estimate.decode_error)
        corners = [(1.0, 1.0)] + [
            (1.0 + sign * reading, 1.0 + other * writing)
            for sign in (-1, 1)
            for other in (-1, 1)
        ]
        worlds = []
        for read, write in corners:
            yield
            workload = estimate.workload.scaled(prompts=read, outputs=write)
            worlds.append(Fleet(groups, workload, cluster.handoff))
        return worlds

    def _enter(self, entry: Entry) -> None:
        if entry.moves or self.last is None or entry.summary != self.last.summary:
            self.log.append(entry)
        self.last = entry


def _moving(
    now: float, trigger: str, workers: Sequence[WorkerState], moves: list[Move], reason: str
) -> Entry:
    current = split_of(workers)
    counts = current._asdict()
    for move in moves:
        counts[move.before] -= 1
        counts[move.role] += 1
    return Entry(now, trigger, current, Split(**counts), tuple(moves), reason)


def _score(fleet: Fleet, split: Split, load: float) -> float:
    """Mean share that attains, at so many times the workload's rate and a little more."""
    rate = fleet.workload.rate * load
    return sum(fleet.forecast(split, rate * stress).goodput for stress in _STRESS) / len(_STRESS)

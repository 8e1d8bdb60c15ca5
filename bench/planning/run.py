"""One layout under one load in simulated time: the router and the schedulers that serve, in an
event loop whose clock jumps. What comes back is small enough to be sent between processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.hosts import dealt
from baton.bench.planning.layout import Layout
from baton.bench.planning.loads import Load
from baton.bench.planning.plan import SHARES
from baton.bench.planning.wishes import Wishes
from baton.bench.routing.trial import lanes_for
from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.simulator.events import Event
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.outcome import Outcome, window
from baton.bench.simulator.worker import SimulatedWorker
from baton.bench.workloads.arrival import Arrival
from baton.router.dispatcher import Dispatcher
from baton.router.observer import Observer
from baton.router.policy import Decide, decide

POINTS = 60
"""Of how busy pools are over time."""
_PATIENCE = 20.0
"""Times a TTFT target, or the seconds of an answer, that a run goes on after its last arrival."""


Look = Callable[[Run], None]
"""Sees all that the simulator found, of which a run's figures are made."""


@dataclass(frozen=True, slots=True)
class Span:
    """Parts of a run, in seconds: until it is as it will be, what counts, and what comes after so
    that the last ones that count are not alone."""

    warm: float
    counted: float
    after: float

    @property
    def all(self) -> float:
        return self.warm + self.counted + self.after


@dataclass(frozen=True, kw_only=True)
class Way:
    """How routers decide."""

    decide: Decide = decide
    strict: bool = False
    """As `--strict-roles`."""
    sizing: bool = False
    """They change roles as the load changes."""


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """What a run found. Times in seconds, one entry for each request that counts and has it."""

    rate: float
    """That was asked for."""
    came: float
    """Requests per second that came: chance makes it another."""
    seed: int
    requests: int
    attainment: float
    goodput: float
    """Requests per second that kept all targets."""
    served: float
    ttft: tuple[float, ...]
    itl: tuple[float, ...]
    e2e: tuple[float, ...]
    gaps: tuple[float | None, ...]
    """Percentiles of single gaps, of SHARES."""
    hit_rate: float
    busy: dict[str, float]
    """Share of their time, by role."""
    busy_over_time: dict[str, tuple[tuple[float, float], ...]]
    """By role: (seconds, share)."""
    handed: float
    """Share of all decisions to read a prompt at one worker and decode it at another."""
    missed: dict[str, int]
    """Requests that did not keep "ttft", "itl" or "e2e", or were "refused"."""

    @property
    def life(self) -> float:
        """Seconds from a request's arrival to its last token, on average; 0 where none ended."""
        return sum(self.e2e) / len(self.e2e) if self.e2e else 0.0


def run_load(
    layout: Layout,
    kinds: Sequence[WorkerKind],
    load: Load,
    wishes: Wishes,
    *,
    rate: float,
    span: Span,
    seed: int,
    watch: bool = False,
    events: Sequence[Event] = (),
    look: Look | None = None,
) -> RunFigures:
    """`watch`: look at how busy the pools are while it runs. The others as for `run_arrivals`."""
    arrivals = load.arrivals(rate, span.all, seed, wishes.targets)
    return run_arrivals(layout, kinds, arrivals, wishes, rate=rate, span=span, seed=seed,
                        points=POINTS if watch else 1, events=events, look=look)


def run_arrivals(
    layout: Layout,
    kinds: Sequence[WorkerKind],
    arrivals: Iterable[Arrival],
    wishes: Wishes,
    *,
    rate: float,
    span: Span,
    seed: int,
    points: int = 1,
    way: Way | None = None,
    events: Sequence[Event] = (),
    look: Look | None = None,
) -> RunFigures:
    """`way`: how requests are decided; the usual one is the production policy, with strict roles
    where the layout has them. `events`: what happens to workers, in seconds of the run."""
    chosen = way or Way(strict=layout.strict)
    lanes = lanes_for(wishes.targets)

    def dispatcher(observer: Observer) -> Dispatcher:
        return Dispatcher(None, observer, lanes=lanes, max_queue=100_000, decide=chosen.decide,
                          strict_roles=chosen.strict)

    cluster = Cluster(workers_of(layout, kinds), seed=seed, dispatcher=dispatcher,
                      sizing=chosen.sizing, fast_forward=True,
                      workers_per_host=kinds[0].per_host)
    busy = _Busy(points, span)
    busy.plan(cluster)
    cluster.schedule(events)
    end = span.warm + span.counted
    limit = span.after + _PATIENCE * (wishes.ttft + span.warm)
    run = cluster.run(arrivals, until=end + limit, count=(span.warm, end))
    if look is not None:
        look(run)
    return _seen(run, window(run.outcomes, span.warm, end), wishes, rate, seed, span, busy)


# -- layouts as the simulator takes them -------------------------------------------------------


def workers_of(layout: Layout, kinds: Sequence[WorkerKind]) -> list[tuple[str, Machine]]:
    """(role, machine) of each, in the order in which they fill hosts."""
    name = kinds[layout.pools[0].kind].machine.name
    pools = [
        # One model, so one name: caches of one kind of worker must hold what another computed.
        [(pool.role, replace(kinds[pool.kind].machine, name=name))] * pool.workers
        for pool in layout.pools
    ]
    return dealt(pools) if kinds[0].per_host > 1 else [each for pool in pools for each in pool]


class _Busy:
    """Looks at how long workers have computed, now and then."""

    def __init__(self, points: int, span: Span) -> None:
        self._times = [span.warm + span.counted * n / points for n in range(points + 1)]
        self._looks: list[tuple[float, dict[str, float], dict[str, int]]] = []
        self._known: dict[SimulatedWorker, None] = {}
        """All lives of all workers: those that died have worked, too."""

    def plan(self, cluster: Cluster) -> None:
        def look() -> None:
            busy: dict[str, float] = {}
            alive: dict[str, int] = {}
            self._known.update(dict.fromkeys(cluster.workers.values()))
            for worker in self._known:
                role = worker.first_role
                alive[role] = alive.get(role, 0) + (not worker.dead)
                if not worker.dead:
                    worker.show()
                busy[role] = busy.get(role, 0.0) + worker.engine.work.busy
            self._looks.append((cluster.loop.time(), busy, alive))

        for at in self._times:
            cluster.loop.at(at, look)

    def over_time(self) -> dict[str, tuple[tuple[float, float], ...]]:
        """By role, for each stretch: (its middle in seconds, share of the time)."""
        found: dict[str, list[tuple[float, float]]] = {}
        for (before, was, had), (after, now, has) in zip(
            self._looks, self._looks[1:], strict=False
        ):
            for role in now:
                worked = now[role] - was.get(role, 0.0)
                time = (had.get(role, 0) + has[role]) / 2 * (after - before)
                share = min(1.0, worked / time) if time else 0.0
                found.setdefault(role, []).append(((before + after) / 2, share))
        return {role: tuple(points) for role, points in found.items()}


def _seen(
    run: Run,
    outcomes: Sequence[Outcome],
    wishes: Wishes,
    rate: float,
    seed: int,
    span: Span,
    busy: _Busy,
) -> RunFigures:
    kept = sum(wishes.kept(outcome) for outcome in outcomes)
    served = [outcome for outcome in outcomes if outcome.served]
    prompts = sum(outcome.prompt for outcome in served)
    itl = [value for outcome in served if (value := outcome.itl) is not None]
    points = busy.over_time()
    return RunFigures(
        rate=rate,
        came=len(outcomes) / span.counted,
        seed=seed,
        requests=len(outcomes),
        attainment=kept / len(outcomes) if outcomes else 1.0,
        goodput=kept / span.counted,
        served=len(served) / len(outcomes) if outcomes else 1.0,
        ttft=tuple(o.ttft for o in outcomes if o.ttft is not None),
        itl=tuple(itl),
        e2e=tuple(o.last for o in served if o.last is not None),
        gaps=tuple(run.gaps.quantile(share) for share in SHARES),
        hit_rate=sum(o.cached for o in served) / prompts if prompts else 0.0,
        busy={
            role: sum(share for _, share in part) / len(part) if part else 0.0
            for role, part in points.items()
        },
        busy_over_time=points,
        handed=_handed(run),
        missed={
            "refused": sum(not o.served for o in outcomes),
            "ttft": sum(o.ttft is not None and o.ttft > wishes.ttft for o in served),
            "itl": sum(value > wishes.itl for value in itl),
            "e2e": sum(
                o.last is not None and o.last > (wishes.e2e or math.inf) for o in served
            ),
        },
    )


def _handed(run: Run) -> float:
    total = sum(run.decisions.values())
    remote = sum(count for way, count in run.decisions.items() if way.startswith("remote"))
    return remote / total if total else 0.0

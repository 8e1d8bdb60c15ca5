"""Traffic that was, once more: with another split, another policy, or on other hardware. Beside
it what was really seen, and a simulation of just that, which says how far to trust the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from baton.bench.planning.hardware.kinds import WorkerKind, worker_kinds
from baton.bench.planning.hosts import on_hosts
from baton.bench.planning.layout import Layout, parse_layout
from baton.bench.planning.run import Look, RunFigures, Span, Way, run_arrivals
from baton.bench.planning.wishes import Wishes
from baton.bench.routing.systems import colocated
from baton.bench.simulator.events import Event
from baton.bench.workloads.traces import Traced, replay
from baton.protocol.errors import ConfigError

POLICIES = {
    "strict": Way(strict=True),
    "cost": Way(),
    "local": Way(decide=colocated(1, 64).decide),
    "auto": Way(sizing=True),
}
"""Workers keep to their roles; the cheapest way for each request; never handed over; the cheapest
way, and roles that change with the load."""
_MOST_TOKENS = 1 << 15


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way in which the traffic could have been served."""

    name: str
    layout: Layout
    kinds: tuple[WorkerKind, ...]
    policy: str | None = None
    """None: as the layout says."""


def case_of(text: str, base: Case) -> Case:
    """The base with one thing changed: a policy, a split, or hardware, whichever the text is.
    Raises ConfigError that says what it may be."""
    if text in POLICIES:
        return replace(base, name=text, policy=text)
    problems = []
    try:
        layout = parse_layout(text, base.kinds)
        return replace(base, name=layout.name(base.kinds), layout=layout, policy=None)
    except ConfigError as error:
        problems.append(str(error))
        if text[:1].isdigit() or text.startswith("~"):
            raise
    try:
        kinds = tuple(worker_kinds(text))
    except ConfigError as error:
        raise ConfigError(
            f"--what-if {text}: neither a policy ({', '.join(POLICIES)}), nor a split such as "
            f"2p+1d, nor hardware ({error})"
        ) from error
    pools = tuple(replace(pool, kind=0) for pool in base.layout.pools)
    was = base.kinds[0]
    made = on_hosts(kinds[0], was.per_host, was.machine.local_link)
    return replace(base, name=made.machine.name, layout=replace(base.layout, pools=pools),
                   kinds=(made,))


def replayed(
    case: Case,
    trace: Sequence[Traced],
    wishes: Wishes,
    *,
    seed: int,
    speed: float = 1.0,
    events: Sequence[Event] = (),
    look: Look | None = None,
) -> RunFigures:
    """All of the trace, from its beginning, `speed` times as fast. `events`: what happens to
    workers meanwhile, in seconds of the run, all of which count."""
    longest, fitting = _fitting(case, trace)
    most = max(16, min(_MOST_TOKENS, max(traced.output for traced in fitting)))
    arrivals = replay(fitting, speed=speed, longest=longest, max_tokens=most,
                      targets=wishes.targets)
    span = span_of(case, trace, speed)
    return run_arrivals(
        case.layout, case.kinds, arrivals, wishes, rate=len(fitting) / span.counted, span=span,
        seed=seed, way=None if case.policy is None else POLICIES[case.policy], events=events,
        look=look,
    )


def span_of(case: Case, trace: Sequence[Traced], speed: float = 1.0) -> Span:
    """From the first to the last request that it takes. Raises ConfigError where there is none."""
    _, fitting = _fitting(case, trace)
    return Span(0.0, max((fitting[-1].at - fitting[0].at) / speed + 1e-6, 1e-3), 0.0)


def _fitting(case: Case, trace: Sequence[Traced]) -> tuple[int, list[Traced]]:
    """Tokens that a request may have, and those of no more."""
    longest = min(kind.machine.limits.max_model_len for kind in case.kinds)
    fitting = [traced for traced in trace if traced.prompt + traced.output < longest]
    if not fitting:
        raise ConfigError(f"{case.name}: no request fits into {longest} tokens")
    return longest, fitting

"""A named workload: which kinds of sessions come in which phases, and how regularly."""

from __future__ import annotations

from dataclasses import dataclass

from baton.bench.workloads.sessions import Kind


@dataclass(frozen=True, slots=True)
class Part:
    """Requests of one kind, `rate` per second on average, within [start, end)."""

    kind: str | Kind
    """Or the name of one of `named.KINDS`."""
    rate: float
    start: float
    end: float
    variation: float = 1.0
    """Of the intervals between sessions, `processes.times`."""
    last_rate: float | None = None
    """At the end, to which it changes linearly."""


@dataclass(frozen=True, slots=True)
class Phase:
    """For a while the load is this."""

    name: str
    mix: tuple[tuple[Kind, float], ...]
    """Shares of the requests; they add up to 1."""
    lasts: float = 1.0
    """Beside the other phases."""
    rate: float = 1.0
    """Times the rate of the workload."""
    variation: float = 1.0


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    about: str
    """One line."""
    phases: tuple[Phase, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Each once."""
        return tuple(dict.fromkeys(kind for phase in self.phases for kind, _ in phase.mix))

    def parts(
        self,
        rate: float,
        seconds: float,
        *,
        variation: float | None = None,
        last_rate: float | None = None,
    ) -> list[Part]:
        """`rate`: requests per second on average over the phases, changing linearly up to
        `last_rate` at the end if given. `variation`: of all phases, in place of their own."""
        whole = sum(phase.lasts for phase in self.phases)
        mean = sum(phase.rate * phase.lasts for phase in self.phases) / whole
        parts, start = [], 0.0
        for phase in self.phases:
            end = start + phase.lasts / whole * seconds
            factor = phase.rate / mean

            def at(when: float, factor: float = factor) -> float:
                slope = 0.0 if last_rate is None else (last_rate - rate) / seconds
                return factor * (rate + slope * when)

            parts += [
                Part(
                    kind, share * at(start), start, end,
                    phase.variation if variation is None else variation,
                    None if last_rate is None else share * at(end),
                )
                for kind, share in phase.mix
            ]
            start = end
        return parts


def steady(kind: Kind, about: str, variation: float = 1.0) -> Workload:
    """One kind all the time, of its name."""
    return Workload(kind.name, about, (Phase("", ((kind, 1.0),), variation=variation),))

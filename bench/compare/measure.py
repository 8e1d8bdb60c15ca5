"""One run: a layout under a load, and what is kept of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np

from baton.bench.compare.layouts import Layout
from baton.bench.compare.loads import Load
from baton.bench.compare.phases import Phases, phases_of
from baton.bench.compare.running import Running, Start
from baton.bench.serve.seen import Seen
from baton.bench.workloads.arrival import Arrival
from baton.router.account import Account

_PLAIN = ("requests", "goodput_per_s", "attainment", "served", "refused", "output_tokens_per_s",
          "prompt_tokens_per_s", "hit_rate")
_SPREADS = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "longest_gap_ms")
_STEPS = {
    "step_with_prompts_ms": "baton_step_seconds{stage=prefill}",
    "step_of_decodes_ms": "baton_step_seconds{stage=decode}",
    "handoff_exposed_ms": "baton_handoff_phase_seconds{phase=exposed}",
}
"""Names of ours, and of the server's means."""


class Served(Protocol):
    """What a load generator saw."""

    requests: list[Seen]
    """All, those of the warm-up included."""

    @property
    def counted(self) -> list[Seen]:
        """Those after the warm-up, in the order in which they were due."""

    def summary(self, *, e2e: float | None = None) -> dict[str, Any]:
        """Figures of these; `e2e`: one more target, in seconds."""

    def server_side(self) -> dict[str, Any]:
        """What the server's metrics say of the same time, under "times"."""


class Serve(Protocol):
    """Sends a load, each request at its time, whatever became of others."""

    async def __call__(
        self, url: str, arrivals: Iterable[Arrival], *, model: str, warmup: float, seconds: float,
        give_up: float | None = None, e2e: float | None = None,
    ) -> Served:
        """`give_up`: the attainment below which the rest need not be sent; of all targets, that of
        `e2e` seconds too."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One run as plain values, for a result's series."""

    layout: str
    family: str
    rate: float
    """Requests per second, as asked for."""
    repetition: int
    seed: int
    figures: dict[str, float | None]
    """By name, `ttft_p50_ms`; None where no request gave one."""
    attainment_ci: list[float] | None = None
    """Of this run alone, by chance in its requests."""
    ends: dict[str, int]
    """Requests by how they ended."""
    phases: dict[str, Any]
    doubts: list[str] = msgspec.field(default_factory=list)
    """Why the client may have been the bottleneck."""

    def figure(self, name: str) -> float | None:
        return self.figures.get(name)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A point, and what it was made of, while the comparison lasts."""

    point: Point
    phases: Phases
    seen: list[Seen]
    """Those that count, in the order in which they were due."""

    @property
    def attainment(self) -> float:
        return self.point.figure("attainment") or 0.0

    @property
    def goodput(self) -> float:
        return self.point.figure("goodput_per_s") or 0.0


def measure(
    start: Start, serve: Serve, layout: Layout, load: Load, *, rate: float, repetition: int,
    seed: int, give_up: float | None = None,
) -> Run:
    """From the start of a layout to its end. With `give_up`, when it is certain that no such share
    of the requests can attain. Raises LayoutFailed, and ConfigError of a server that does not take
    the load."""
    arrivals = load.arrivals(rate, seed)
    with start(layout) as running:
        served = asyncio.run(serve(
            running.url, arrivals, model=running.model, warmup=load.warm, seconds=load.seconds,
            give_up=give_up, e2e=load.e2e,
        ))
    seen, summary = served.counted, served.summary(e2e=load.e2e)
    phases = phases_of(
        _counted(running, load, served.requests),
        np.concatenate([one.gaps for one in seen] or [np.zeros(0)]).tolist(),
    )
    times = served.server_side().get("times", {})
    steps = {ours: times[name]["mean_ms"] for ours, name in _STEPS.items() if name in times}
    return Run(
        point=Point(
            layout=layout.name,
            family=layout.family,
            rate=rate,
            repetition=repetition,
            seed=seed,
            figures=figures_of(summary),
            attainment_ci=summary.get("attainment_ci"),
            ends=summary.get("ends", {}),
            phases={**phases.to_dict(), **steps},
            doubts=list(summary.get("client", {}).get("doubts", ())),
        ),
        phases=phases,
        seen=seen,
    )


def figures_of(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Of a load generator's summary, flat: `ttft_ms` of p50 is `ttft_p50_ms`."""
    figures: dict[str, float | None] = {name: summary.get(name) for name in _PLAIN}
    for name in _SPREADS:
        spread = summary.get(name) or {}
        for part in ("mean", "p50", "p90", "p99", "max"):
            figures[f"{name.removesuffix('_ms')}_{part}_ms"] = spread.get(part)
    return figures


FIGURES = tuple(figures_of({}))
"""Names of all that there are."""


def _counted(running: Running, load: Load, requests: Sequence[Seen]) -> list[Account]:
    """Accounts of requests after the warm-up. There is one more at the beginning for each request
    that was no part of the load, such as the one that finds out what the server takes."""
    accounts = sorted(running.accounts, key=lambda account: account.arrived)
    counted = sum(load.warm <= one.due and one.sent is not None for one in requests)
    return accounts[-counted:] if counted else []

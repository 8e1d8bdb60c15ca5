"""Places of a map: prompt length, output length and load; and what the planner says of each. Pure.

A load is a share of what the best layout carries at most, by the planner's closed forms, so that
places with very different requests compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from baton.bench.compare.chunked import attained
from baton.bench.compare.layouts import COLOCATED
from baton.bench.routing.workloads import targets_for
from baton.bench.simulator.machine import Machine
from baton.protocol.records import Targets
from baton.router.planner.phases import Kind
from baton.router.planner.split import Fleet, Group, Split
from baton.router.planner.workload import Item, Workload

TIE = 0.03
"""Ratios of goodput this near to 1 are no win."""


@dataclass(frozen=True, slots=True)
class Place:
    prompt: int
    output: int
    load: float
    rate: float
    """Requests per second that this load is."""
    targets: Targets
    planned: float
    """Goodput of the best split over that of the best colocated layout, by closed forms."""
    binds: str
    """What the best split runs out of first."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One place and what was measured there, as plain values."""

    prompt: int
    output: int
    load: float
    rate: float
    ttft: float
    itl: float
    planned: float
    measured: float
    """Goodput of the best split over that of the best colocated layout."""
    best: str
    best_colocated: str
    goodput: dict[str, float]
    """By layout; requests per second."""


def places(
    machine: Machine,
    workers: int,
    prompts: Sequence[int],
    outputs: Sequence[int],
    loads: Sequence[float],
    targets: Targets | None,
    chunks: Sequence[int] = (),
) -> Iterator[Place]:
    """`targets`: for all. None: some times what a request of this length takes alone. `chunks`:
    prompt tokens of a step that colocated workers may have, besides as many as the targets
    allow."""
    for prompt in prompts:
        for output in outputs:
            wanted = targets or targets_for(machine, prompt)
            fleet = _fleet(machine, workers, prompt, output, wanted)
            most = max(fleet.capacity(split)[0] for split in fleet.splits())
            for load in loads:
                rate = load * most
                ours = max(
                    (fleet.forecast(split, rate) for split in _splits(workers)),
                    key=lambda forecast: forecast.goodput,
                )
                theirs = max(
                    fleet.forecast(Split(0, 0, workers), rate).goodput,
                    *(attained(machine.curve, workers, rate, prompt, output, chunk, wanted)
                      for chunk in chunks), 0.0,
                )
                planned = _ratio(ours.goodput, theirs)
                yield Place(prompt, output, load, rate, wanted, planned, ours.binds)


def cell_of(place: Place, goodput: Mapping[str, float]) -> Cell:
    """`goodput`: by layout. Raises ValueError unless there is a colocated one and another."""
    colocated = {name: g for name, g in goodput.items() if name.startswith(COLOCATED)}
    others = {name: g for name, g in goodput.items() if name not in colocated}
    if not colocated or not others:
        raise ValueError("a map needs a colocated layout and another")
    best = max(others, key=lambda name: others[name])
    rival = max(colocated, key=lambda name: colocated[name])
    return Cell(
        prompt=place.prompt, output=place.output, load=place.load, rate=place.rate,
        ttft=place.targets.ttft or math.inf, itl=place.targets.itl or math.inf,
        planned=place.planned, measured=_ratio(others[best], colocated[rival]),
        best=best, best_colocated=rival, goodput=dict(goodput),
    )


def side(ratio: float) -> int:
    """1: disaggregation wins, -1: it loses, 0: neither."""
    return 0 if abs(ratio - 1) <= TIE else 1 if ratio > 1 else -1


def agreement(cells: Sequence[Cell]) -> tuple[int, int]:
    """(places where planner and measurement do not contradict each other, all). A tie contradicts
    nobody."""
    same = sum(side(cell.planned) * side(cell.measured) >= 0 for cell in cells)
    return same, len(cells)


def _splits(workers: int) -> list[Split]:
    return [Split(n, workers - n, 0) for n in range(1, workers)]


def _fleet(
    machine: Machine, workers: int, prompt: int, output: int, targets: Targets
) -> Fleet:
    limits = machine.limits
    kind = Kind(machine.curve, machine.num_blocks * machine.layout.block_size,
                limits.max_running, limits.max_batch_tokens, limits.prefill_chunk)
    item = Item(prompt, 0, output, targets.ttft or math.inf, targets.itl or math.inf)
    handoff = machine.link.seconds(machine.layout.blocks_for(prompt) * machine.layout.block_bytes)
    return Fleet([Group(kind, workers)], Workload(1.0, (item,)), handoff)


def _ratio(ours: float, theirs: float) -> float:
    """At most 9, so that a picture has an end; 1 where nobody attains anything."""
    if ours <= 0 and theirs <= 0:
        return 1.0
    return min(9.0, ours / theirs) if theirs > 0 else 9.0

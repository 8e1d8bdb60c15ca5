"""Places of a map: prompt length, output length and load; and what the planner says of each. Pure.

A load is a share of what the best layout carries at most, by the planner's closed forms, so that
places with very different requests compare.

What was measured is the ratio of goodputs over repetitions with the same requests. A side has won a
place where the interval of that ratio lies beyond 1, by more than TIE; else the place is open, and
says nothing of the planner. Where one won, the planner said the same, or the contrary, or a tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import msgspec

from baton.bench.compare.chunked import attained
from baton.bench.compare.layouts import COLOCATED
from baton.bench.compare.statistics import favours, ratio_of
from baton.bench.routing.workloads import targets_for
from baton.bench.simulator.machine import Machine
from baton.protocol.records import Targets
from baton.router.planner.phases import Kind
from baton.router.planner.split import Fleet, Group, Split
from baton.router.planner.workload import Item, Workload

TIE = 0.03
"""Ratios of goodput this near to 1 are no win."""
_MOST = 9.0
"""Of a ratio, so that a picture has an end."""


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
    low: float | None = None
    high: float | None = None
    """Between what that lies; None where repetitions do not tell."""
    won: int | None = None
    """1: by the split, -1: by the colocated layout, 0: open. None of older results."""
    best: str
    best_colocated: str
    goodput: dict[str, float]
    """By layout; requests per second, the mean over repetitions."""
    repetitions: int = 1


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


def cell_of(place: Place, goodputs: Mapping[str, Sequence[float]]) -> Cell:
    """`goodputs`: by layout, of each repetition; those of one repetition had the same requests.
    Raises ValueError unless there is a colocated layout and another, all with as many."""
    mean = {name: fmean(each) for name, each in goodputs.items()}
    colocated = [name for name in mean if name.startswith(COLOCATED)]
    others = [name for name in mean if name not in colocated]
    if not colocated or not others:
        raise ValueError("a map needs a colocated layout and another")
    best, rival = (max(names, key=lambda name: mean[name]) for names in (others, colocated))
    ratio = ratio_of(goodputs[best], goodputs[rival])
    favoured = favours(goodputs[best], goodputs[rival])
    return Cell(
        prompt=place.prompt, output=place.output, load=place.load, rate=place.rate,
        ttft=place.targets.ttft or math.inf, itl=place.targets.itl or math.inf,
        planned=place.planned, measured=min(_MOST, ratio.mid),
        low=ratio.low if ratio.known else None, high=ratio.high if ratio.known else None,
        won=favoured if side(ratio.mid) == favoured else 0,
        best=best, best_colocated=rival, goodput=mean, repetitions=ratio.count,
    )


def side(ratio: float) -> int:
    """1: disaggregation wins, -1: it loses, 0: neither."""
    return 0 if abs(ratio - 1) <= TIE else 1 if ratio > 1 else -1


@dataclass(frozen=True, slots=True)
class Judged:
    """Planner and measurement over all places. Contradictions are also told one by one."""

    places: int
    decided: int
    """Somebody won there, as measured. Of these:"""
    same: int
    """The planner says so, too."""
    contradicted: int
    """It says the other side."""
    planner_tied: int
    """It says that neither does."""
    contradictions: tuple[Cell, ...]

    @property
    def share(self) -> float:
        """Of decided places, those where both say the same; 0 where nothing was decided."""
        return self.same / self.decided if self.decided else 0.0


def judge(cells: Sequence[Cell]) -> Judged:
    decided = [cell for cell in cells if cell.won]
    same = [cell for cell in decided if side(cell.planned) == cell.won]
    against = tuple(cell for cell in decided if side(cell.planned) == -(cell.won or 0))
    return Judged(len(cells), len(decided), len(same), len(against),
                  len(decided) - len(same) - len(against), against)


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
    """At most _MOST; 1 where nobody attains anything."""
    if ours <= 0 and theirs <= 0:
        return 1.0
    return min(_MOST, ours / theirs) if theirs > 0 else _MOST

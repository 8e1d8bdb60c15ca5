"""Questions that closed forms answer alone, corrected by what simulations of this load showed:
what another load, other wishes or another cluster would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from baton.bench.planning.candidates import Candidate, all_candidates, choose, closed_of, model_of
from baton.bench.planning.hardware.kinds import WorkerKind
from baton.bench.planning.layout import Layout
from baton.bench.planning.limits import Limits
from baton.bench.planning.plan import COLOCATED, DISAGGREGATED, HYBRID, SHAPES
from baton.bench.planning.wishes import Wishes
from baton.router.planner.workload import Item, Workload


class Answer(NamedTuple):
    layout: Layout
    rate: float
    """Requests per second at the wanted attainment; the corrected figure."""


@dataclass(frozen=True, kw_only=True)
class World:
    """All that an answer depends on. Changed with `but`."""

    kinds: tuple[WorkerKind, ...]
    limits: Limits
    workload: Workload
    """As it comes; end-to-end targets not yet in it."""
    wishes: Wishes
    factors: dict[str, float]
    """By shape: what simulations showed over what closed forms say."""

    def but(
        self,
        *,
        prompts: float = 1.0,
        outputs: float = 1.0,
        burstiness: float = 1.0,
        links: float = 1.0,
        cached: bool = True,
        wishes: Wishes | None = None,
        limits: Limits | None = None,
    ) -> World:
        """With prompts so many times as long, and so on. Not `cached`: nothing is shared."""
        wanted = wishes or self.wishes
        items = tuple(
            Item(
                max(1, round(prompts * item.prompt)),
                round(prompts * item.cached) if cached else 0,
                max(1, round(outputs * item.output)),
                wanted.ttft,
                wanted.itl,
            )
            for item in self.workload.items
        )
        workload = replace(
            self.workload, items=items, burstiness=self.workload.burstiness * burstiness
        )
        kinds = self.kinds if links == 1.0 else tuple(_linked(k, links) for k in self.kinds)
        return replace(
            self, kinds=kinds, workload=workload, wishes=wanted, limits=limits or self.limits
        )

    def capacity(self, layout: Layout) -> Answer:
        """Of one layout."""
        model = model_of(layout, self.kinds, self.wishes.within(self.workload))
        rate = model.capacity(self.wishes.attainment).rate
        return Answer(layout, rate * self.factor(layout.shape))

    def worth(self, answer: Answer) -> float:
        """Its rate for each GPU or unit of money, as `Limits.divisor` counts them."""
        return answer.rate / self.limits.divisor(answer.layout, self.kinds)

    def best(self, shapes: Sequence[str] = SHAPES) -> list[Answer]:
        """Of each of these shapes that there can be, the best first."""
        workload = self.wishes.within(self.workload)
        found = all_candidates(self.kinds, self.limits, workload, shapes)
        factors = {shape: self.factor(shape) for shape in SHAPES}
        best = choose(found, self.kinds, self.limits, self.wishes.attainment, 1, factors)
        answers = [self._answer(candidate) for candidate in best]
        return sorted(
            answers, key=lambda a: self.limits.score(a.rate, a.layout, self.kinds), reverse=True
        )

    def factor(self, shape: str) -> float:
        """Where a shape was not simulated, that of the one it is most like."""
        like = {HYBRID: DISAGGREGATED, DISAGGREGATED: HYBRID, COLOCATED: COLOCATED}[shape]
        return self.factors.get(shape, self.factors.get(like, 1.0))

    def _answer(self, candidate: Candidate) -> Answer:
        closed = closed_of(candidate, self.wishes.attainment).rate
        return Answer(candidate.layout, closed * self.factor(candidate.layout.shape))


def _linked(kind: WorkerKind, factor: float) -> WorkerKind:
    link = kind.machine.link
    slower = msgspec.structs.replace(link, byte=link.byte / factor)
    return replace(kind, machine=replace(kind.machine, link=slower))

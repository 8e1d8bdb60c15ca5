"""What is compared: the router as it is, and what people run without one that decides.

    auto        the router, with its sizing if it has any
    split p+d   so many workers for prompts, the others decode, every request is handed over
    colocated   every worker does both, prompts in chunks of a fixed size beside decodes

The two static ones have the same workers, queue, caches and cost model; only the ways that they
may choose from are fewer. So what they lack is what deciding adds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from baton.bench.simulator.machine import Machine
from baton.protocol.ids import Identity
from baton.router.candidates import Candidate, RequestFacts
from baton.router.options import Option, best_readers, best_writers, combine, read
from baton.router.policy import Decide, Decision, Wait, decide

CHUNKS = (64, 128, 256, 512)
"""Prompt tokens beside decodes, of which the best is taken for colocated workers."""


@dataclass(frozen=True)
class System:
    name: str
    roles: tuple[str, ...]
    decide: Decide
    chunk: int | None = None
    """Prompt tokens of a step beside decodes. None: as many as the targets allow."""
    automatic: bool = False

    def workers(self, machine: Machine) -> list[tuple[str, Machine]]:
        if self.chunk is not None:
            limits = machine.limits
            share = min(1.0, self.chunk / limits.max_batch_tokens)
            machine = replace(
                machine,
                adapts=False,
                limits=replace(
                    limits,
                    prefill_chunk=max(self.chunk, limits.prefill_chunk),
                    prefill_share=dict.fromkeys(limits.prefill_share, share),
                ),
            )
        return [(role, machine) for role in self.roles]


def automatic(workers: int, prefills: int | None = None) -> System:
    """Begins with half of the workers for prompts, unless told otherwise."""
    prefills = workers // 2 if prefills is None else prefills
    roles = ("mixed",) if workers == 1 else _roles(prefills, workers - prefills)
    return System("auto", roles, decide, automatic=True)


def split(prefills: int, decodes: int) -> System:
    return System(f"split {prefills}+{decodes}", _roles(prefills, decodes), _only_remote)


def colocated(workers: int, chunk: int) -> System:
    return System(f"colocated {chunk}", ("mixed",) * workers, _only_local, chunk)


def static_systems(workers: int, step: int = 1) -> Iterator[System]:
    """All splits, or every `step`th, and all chunk sizes."""
    for prefills in range(step, workers, step):
        yield split(prefills, workers - prefills)
    for chunk in CHUNKS:
        yield colocated(workers, chunk)


def _roles(prefills: int, decodes: int) -> tuple[str, ...]:
    return ("prefill",) * prefills + ("decode",) * decodes


# -- static decisions ------------------------------------------------------------------------


def _only_remote(
    facts: RequestFacts, candidates: Iterable[Candidate], exclude: Collection[Identity], now: float
) -> Decision | Wait:
    everyone = [c for c in candidates if c.identity not in exclude]
    readers = best_readers(
        facts,
        [c for c in everyone if c.role == "prefill" and c.prefilling < c.max_running],
        now,
    )
    writers = best_writers(facts, [c for c in everyone if c.role != "prefill" and _room(facts, c)])
    if facts.remaining <= 1:
        writers = best_writers(facts, [reading.worker for reading in readers])
        alone = [combine(facts, r, w) for r in readers for w in writers if r.worker is w.worker]
        return _best(facts, alone, now)
    return _best(facts, [combine(facts, r, w) for r in readers for w in writers], now)


def _only_local(
    facts: RequestFacts, candidates: Iterable[Candidate], exclude: Collection[Identity], now: float
) -> Decision | Wait:
    able = [c for c in candidates if c.identity not in exclude and _room(facts, c)]
    writers = best_writers(facts, able)
    local = [combine(facts, read(facts, w.worker, now), w) for w in writers]
    return _best(facts, local, now)


def _best(facts: RequestFacts, options: list[Option], now: float) -> Decision | Wait:
    """As late as it can be, as the router does it."""
    if not options:
        return Wait.BUSY
    best = min(options, key=lambda o: (*o.rank, o.writing.worker.identity.node_id))
    if all(o.reading.worker.model.queue(now) > o.reading.worker.model.horizon for o in options):
        return Wait.BUSY
    prefill = None if best.local else best.reading.worker.identity
    return Decision(
        "local" if best.local else "remote",
        best.writing.worker.identity,
        prefill,
        "static",
        best.prediction(facts),
        best.reading.loan,
        best.missed,
        best.cost,
        facts=facts,
    )


def _room(facts: RequestFacts, worker: Candidate) -> bool:
    idle = worker.decoding + worker.prefilling == 0
    fits = facts.blocks <= worker.available_blocks or idle
    return worker.decoding < worker.max_running and not worker.full and fits

"""Who may do what of one request, and the ways that leaves.

A role is a preference while prompts leave their workers time. When they do not, the cheapest way
for each is not the best for all: roles are kept by requests that can be served in time so. Where
the operator wants roles strict, or a worker's speed is not known, it keeps to its role as long as
others keep to theirs and can hand over to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from baton.router.candidates import Candidate, RequestFacts
from baton.router.crowding import EMPTY, Pool
from baton.router.options import (
    Option,
    Reading,
    Writing,
    best_readers,
    best_writers,
    cheapest,
    combine,
    dearer_together,
    pairs,
    price_of_queue,
    read,
    write,
)

RECOMPUTE_TOKENS = 512
"""Prompt tokens that a worker with running streams may have to recompute at a time: a chunk."""

KEPT_APART = 0.7
"""Share of their time that prompts take of workers for prompts, from which on roles are kept: every
worker that decodes pays the same for a step, however few it decodes, and prompts wait for it."""
HARDLY = 0.8
"""Targets missed, its own and others', from which on a way within the roles is as good as none."""


class Ways:
    def __init__(
        self,
        facts: RequestFacts,
        prefills: list[Candidate],
        receivers: list[Candidate],
        receivers_exist: bool,
        now: float,
    ) -> None:
        self.facts = facts
        self.receivers_exist = receivers_exist
        self.ready_prefills = [c for c in prefills if c.prefilling < c.max_running]
        """For prompts, and not full of them."""
        self.prefills = prefills
        self.throttled = False
        self.severed = False
        """Some could not hand over to each other."""
        self._cut_off = False
        """None could."""
        self._now = now
        self._left_out: list[Writing] = []
        readers = self.ready_prefills or [
            c for c in receivers if c.prefilling < c.max_running
        ]
        self._for_prompts, self._for_tokens = _pool(facts, prefills), _pool(facts, receivers)
        price = self._price(self._for_tokens)
        if self.ready_prefills:
            price = self._price(self._for_prompts)
        self._waiting = price_of_queue(facts, readers, now)
        self.readers = best_readers(facts, readers, now, price, self._waiting)
        blocks = facts.blocks
        self.writers = best_writers(facts, [
            c
            for c in receivers  # as `_has_room`, for all
            if c.decoding < c.max_running
            and not c.full
            and (blocks <= c.available_blocks or c.decoding + c.prefilling == 0)
        ], self._for_tokens)

    def options(self) -> list[Option]:
        """All ways, but for those that others are better than in any case."""
        facts, readers, writers = self.facts, self.readers, self.writers
        options: list[Option] = []
        ways: list[tuple[Reading, Writing]] = []
        if facts.remaining > 1 or not self.ready_prefills:
            apart = [r for r in readers if self._may_read_for_others(r.worker)]
            ways = [way for way in pairs(apart, writers) if way[0].worker is not way[1].worker]
            options = [combine(facts, *way) for way in ways if not self._is_severed(*way)]
            self.severed = len(options) < len(ways)
            self._cut_off = self.severed and not options
        best = cheapest(options) if options else None
        for writing in writers:
            worker = writing.worker
            if not self._may_read_too(worker):
                continue
            # Not within the roles, and dearer: it can be left out whatever else there is.
            if best and worker.role == "decode" and dearer_together(facts, writing, best):
                self._left_out.append(writing)
            else:
                options.append(self._together(writing))
        for reading in readers:
            worker = reading.worker
            if worker.role == "prefill" and self._may_write_too(worker):
                writing = write(facts, worker, self._for_prompts)
                options.append(combine(facts, reading, writing))
        if not options and not self.throttled:
            # Nothing else is left, nor will be in a moment: what failed is tried again.
            options = [combine(facts, *way) for way in ways]
        return options

    def breaks_intervals(self, options: Sequence[Option], decoder: Candidate) -> bool:
        """Whether to compute the prompt at this one as well would probably break a target."""
        at = [o for o in options if o.local and o.writing.worker is decoder]
        at += [self._together(w) for w in self._left_out if w.worker is decoder]
        return any(o.missed > 0.5 for o in at)

    def _price(self, pool: Pool) -> float:
        """Of a second of its prompt: what those to come lose. To urgent ones it gives way."""
        return 0.0 if self.facts.patient else pool.work_price

    def _together(self, writing: Writing) -> Option:
        facts = self.facts
        price = self._price(self._for_tokens)
        reading = read(facts, writing.worker, self._now, price, self._waiting)
        return combine(facts, reading, writing)

    def within_roles(self, options: list[Option]) -> list[Option]:
        """Those that keep to the roles and have a chance, if there are any and it matters."""
        facts, pool = self.facts, self._for_prompts
        if self._pressing() < KEPT_APART or facts.due_in is None or facts.remaining <= 1:
            return options
        if pool.ttft is not None and facts.ttft is not None and facts.ttft > pool.ttft:
            return options  # it takes what is left
        if pool.workers + self._for_tokens.workers <= 2:
            return options  # there is no other division of two that could do better
        kept = [
            option
            for option in options
            if option.reading.worker.role != "decode"
            and option.writing.worker.role != "prefill"
            and option.missed < HARDLY
        ]
        return kept or options

    def _pressing(self) -> float:
        """The share of their time that prompts take of workers for prompts; while some wait, of
        those that do not decode besides. Long prompts go to these, and the others take few, for
        they are given what is to be decoded: else that would go on for good."""
        pressure = self._for_prompts.pressure
        free = sum([not worker.model.decoding for worker in self.prefills])
        if not free or not self.facts.behind[0]:
            return pressure
        return pressure * len(self.prefills) / free

    def _is_severed(self, reading: Reading, writing: Writing) -> bool:
        severed = self.facts.severed
        return bool(severed) and (reading.worker.identity, writing.worker.identity) in severed

    def _may_cross(self, worker: Candidate) -> bool:
        """What is not its role."""
        return self._cut_off or (worker.model.measured and not self.facts.strict_roles)

    def _may_read_for_others(self, worker: Candidate) -> bool:
        if worker.role == "prefill":
            return True
        return self._may_cross(worker) and self._may_recompute(worker)

    def _may_read_too(self, worker: Candidate) -> bool:
        """One that decodes."""
        if self.ready_prefills and not self._may_cross(worker):
            return False
        if self.ready_prefills and self.facts.remaining <= 1:
            return False
        if self.prefills and worker.role == "decode" and not self._may_cross(worker):
            return False
        return self._may_recompute(worker)

    def _may_recompute(self, worker: Candidate) -> bool:
        may = not self.facts.recompute or _may_recompute(self.facts, worker)
        self.throttled |= not may
        return may

    def _may_write_too(self, worker: Candidate) -> bool:
        """One for prompts."""
        if self.facts.remaining <= 1:
            return True
        if not _has_room(self.facts, worker):
            return False
        if self.receivers_exist and not self._may_cross(worker):
            return False
        return self._may_recompute(worker)


def _pool(facts: RequestFacts, workers: Sequence[Candidate]) -> Pool:
    models = [worker.model for worker in workers]
    pressure = sum([model.pressure for model in models])
    if pressure <= 0:
        return EMPTY
    work = sum([model.pressure * model.typical for model in models])
    ttft, worth = facts.tightest
    return Pool(pressure / len(models), work / pressure, ttft, worth, len(models))


def _has_room(facts: RequestFacts, worker: Candidate) -> bool:
    """A worker without work is asked even if its blocks look too few: only it knows for sure,
    and nothing that we could wait for would free any."""
    return (
        worker.decoding < worker.max_running
        and not worker.full
        and (
            facts.blocks <= worker.available_blocks
            or worker.decoding + worker.prefilling == 0
        )
    )


def _may_recompute(facts: RequestFacts, worker: Candidate) -> bool:
    """After a failure everything that was lost comes at once. Where streams run, only so much of
    it may be under way at a time that these keep their inter-token latency; one always may."""
    if worker.decoding <= worker.prefilling or worker.recompute_tokens == 0:
        return True
    return worker.recompute_tokens + facts.tokens <= RECOMPUTE_TOKENS

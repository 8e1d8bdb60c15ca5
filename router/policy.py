"""Where a request runs. Pure: facts about the request and the workers in, a decision out.

Of all ways (`options.py`) the one that costs everyone least: latency, and targets missed. Where it
runs at last is decided as late as it can be: a worker gets a prompt when those before it are nearly
through, not to queue there.

A role is a preference while prompts leave their workers time. When they do not, the cheapest way
for each is not the best for all: roles are kept by requests that can be served in time so. Where
the operator wants roles strict, or a worker's speed is not known, it keeps to its role as long as
others keep to theirs.

    reason              the prompt is computed, and the request decoded,
    split               by a worker for prompts, and by one for decoding: it is cheapest
    itl_protected       so, because doing it at one worker would break others' intervals
    cached_here         where much of it is cached
    affinity            where its session was, for nearly the same cost
    handoff_dear        at one worker, for the hand-off would cost more than it saves
    prefill_busy        at one that decodes, for those for prompts have enough to do
    prefill_excluded    at one that decodes, for those for prompts declined a moment ago
    severed             at one worker, for hand-offs between the others fail
    decode_busy         at one for prompts, for those that decode have no room, or have enough to do
    single_token        at one for prompts, for nothing is to be decoded
    mixed_worker, no_prefill_worker, no_decode_worker     at one worker, for there are no others
    least_bad           where it costs least that a target will probably be missed
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from baton.protocol.ids import Identity
from baton.router.candidates import Candidate, RequestFacts
from baton.router.crowding import EMPTY, Pool
from baton.router.loans import Loan
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
from baton.router.prediction import Prediction

RECOMPUTE_TOKENS = 512
"""Prompt tokens that a worker with running streams may have to recompute at a time: a chunk."""

KEPT_APART = 0.7
"""Share of their time that prompts take of workers for prompts, from which on roles are kept: every
worker that decodes pays the same for a step, however few it decodes, and prompts wait for it."""
HARDLY = 0.8
"""Targets missed, its own and others', from which on a way within the roles is as good as none."""

LONG = 8
"""Steps that a prompt takes which gains nothing by sharing them."""

ALTERNATIVES = 3
"""Ways not taken that a decision shows."""


@dataclass(slots=True)
class Alternative:
    """A way that was not taken."""

    route: str
    decode: Identity
    prefill: Identity | None
    missed: float
    """Targets that were expected to be missed by it."""
    cost: float
    prediction: Prediction


@dataclass(slots=True)
class Decision:
    """Not to be changed. (A frozen one would take ten times as long to make.)"""

    route: str
    """"remote" or "local"."""
    decode: Identity
    prefill: Identity | None
    reason: str
    prediction: Prediction | None = field(default=None, compare=False)
    loan: Loan | None = field(default=None, compare=False)
    """What the worker that computes the prompt should fetch."""
    missed: float = field(default=0.0, compare=False)
    """Targets that are expected to be missed by it."""
    cost: float = field(default=0.0, compare=False)
    """Seconds of latency that it adds for everyone."""
    others: Sequence[Option] = field(default=(), compare=False, repr=False)
    facts: RequestFacts | None = field(default=None, compare=False, repr=False)

    @property
    def alternatives(self) -> list[Alternative]:
        """The best ways that were not taken, the best first. Worked out when somebody asks."""
        facts = self.facts
        if facts is None:
            return []
        return [
            Alternative(*_way(o), o.missed, o.cost, o.prediction(facts))
            for o in sorted(self.others, key=_rank)[:ALTERNATIVES]
        ]


class Wait(Enum):
    """Why there is no decision now."""

    BUSY = "busy"
    """Workers that could serve it are full, or have enough prompts to go on with."""
    THROTTLED = "throttled"
    """As much is recomputed already as the streams of these workers can bear."""
    EXCLUDED = "excluded"
    """The ones that are left declined a moment ago."""
    NO_WORKER = "no_worker"


Decide = Callable[
    [RequestFacts, Iterable[Candidate], Collection[Identity], float], Decision | Wait
]
"""What `decide` does; or another one, to compare with."""


def decide(
    facts: RequestFacts,
    candidates: Iterable[Candidate],
    exclude: Collection[Identity] = (),
    now: float = 0.0,
) -> Decision | Wait:
    """`exclude`: workers that declined this request a moment ago. `now`: on the clock of the
    candidates' models."""
    everyone = candidates if isinstance(candidates, list) else list(candidates)
    if not everyone:
        return Wait.NO_WORKER
    usable = [c for c in everyone if c.identity not in exclude] if exclude else everyone
    prefills = [c for c in usable if c.role == "prefill"]
    receivers = [c for c in usable if c.role != "prefill"] if prefills else usable
    receivers_exist = bool(receivers) or any(c.role != "prefill" for c in everyone)

    ways = _Ways(facts, prefills, receivers, receivers_exist, now)
    options = ways.options()
    if not options:
        if ways.throttled:
            return Wait.THROTTLED
        nobody = not receivers if receivers_exist else not prefills
        return Wait.EXCLUDED if nobody else Wait.BUSY
    best = cheapest(ways.within_roles(options))
    if _too_early(best.reading, ways.readers, now):
        return Wait.BUSY
    return _decision(facts, best, options, _reason(facts, best, options, everyone, ways))


def receiver_for(facts: RequestFacts, candidates: Iterable[Candidate]) -> Identity | None:
    """Where a request that decodes can be moved to, without asking in vain: it stands still until
    it is there. Blocks are spared for all that grow."""
    roomy = [
        c
        for c in candidates
        if c.decoding < c.max_running
        and facts.blocks + c.decoding <= c.available_blocks
        and not c.full
    ]
    receivers = [c for c in roomy if c.role != "prefill"] or roomy
    writings = [write(facts, c) for c in receivers]
    if not writings:
        return None
    best = min(writings, key=lambda w: (
        facts.output * (w.itl + w.missed * (w.worker.model.itl or 0.0)) + w.delay + w.to_come,
        -w.worker.available_blocks,
    ))
    return best.worker.identity


class _Ways:
    """Who may do what of one request."""

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
        self._now = now
        self._left_out: list[Writing] = []
        readers = self.ready_prefills or [
            c for c in receivers if c.prefilling < c.max_running
        ]
        self._for_prompts, self._for_tokens = _pool(facts, prefills), _pool(facts, receivers)
        price = self._price(self._for_tokens)
        if self.ready_prefills:
            price = self._price(self._for_prompts) + price_of_queue(facts, readers, now)
        self.readers = best_readers(facts, readers, now, price)
        blocks = facts.blocks
        self.writers = best_writers(facts, [
            c
            for c in receivers  # as `_has_room`, for all
            if c.decoding < c.max_running
            and not c.full
            and (blocks <= c.available_blocks or c.decoding + c.prefilling == 0)
        ], self._for_tokens)

    def options(self) -> list[Option]:
        facts, readers, writers = self.facts, self.readers, self.writers
        options: list[Option] = []
        ways: list[tuple[Reading, Writing]] = []
        if facts.remaining > 1 or not self.ready_prefills:
            apart = [r for r in readers if self._may_read_for_others(r.worker)]
            ways = [way for way in pairs(apart, writers) if way[0].worker is not way[1].worker]
            options = [combine(facts, *way) for way in ways if not self._is_severed(*way)]
            self.severed = len(options) < len(ways)
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
        return combine(facts, read(facts, writing.worker, self._now, price), writing)

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
        return worker.model.measured and not self.facts.strict_roles

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


def _rank(option: Option) -> tuple[float, bool]:
    return option.rank


def _plain(option: Option) -> float:
    return option.plain


def _too_early(best: Reading, others: Sequence[Reading], now: float) -> bool:
    """Whether all that could take this prompt have enough to go on with. When only the best one
    has, it is worth its queue: it has cached what the others had to compute, or steps are shared
    there. But a prompt of many steps shares none, so where nothing of it is cached its place is
    decided when one of them is nearly through."""
    model = best.worker.model
    if not model.has_enough(now, best.work):
        return False
    if best.cached == 0 and best.work > LONG * model.chunk_step:
        return True
    return all(other.worker.model.has_enough(now, other.work) for other in others)


def _decision(
    facts: RequestFacts, best: Option, options: Sequence[Option], reason: str
) -> Decision:
    return Decision(
        *_way(best), reason, best.prediction(facts), best.reading.loan, best.missed, best.cost,
        [o for o in options if o is not best], facts,
    )


def _way(option: Option) -> tuple[str, Identity, Identity | None]:
    decode = option.writing.worker.identity
    if option.local:
        return "local", decode, None
    return "remote", decode, option.reading.worker.identity


def _reason(
    facts: RequestFacts,
    best: Option,
    options: Sequence[Option],
    everyone: Sequence[Candidate],
    ways: _Ways,
) -> str:
    if best.missed > 0.5:
        return "least_bad"
    forced = _forced(facts, best, everyone, ways)
    if forced is not None and not (forced == "mixed_worker" and len(options) > 1):
        return forced
    if facts.affinity and best is not min(options, key=_plain):
        return "affinity"
    cached = best.reading.cached
    if cached:
        others = [option.reading.cached for option in options]
        if min(others) < cached == max(others):
            return "cached_here"
    if forced is not None:
        return forced
    if not best.local:
        broken = ways.breaks_intervals(options, best.writing.worker)
        return "itl_protected" if broken else "split"
    rival = min((o for o in options if not o.local), key=_rank, default=None)
    if rival is None and ways.severed:
        return "severed"
    if best.writing.worker.role == "prefill":
        slower = rival is None or rival.writing.itl > best.writing.itl
        return "decode_busy" if slower else "handoff_dear"
    if rival is None or rival.reading.queue > best.reading.queue:
        return "prefill_busy"
    return "handoff_dear"


def _forced(
    facts: RequestFacts, best: Option, everyone: Sequence[Candidate], ways: _Ways
) -> str | None:
    """Why there was no other way."""
    if not best.local:
        return None
    role = best.writing.worker.role
    if role == "prefill":
        if not ways.receivers_exist:
            return "no_decode_worker"
        return "single_token" if facts.remaining <= 1 else None
    if not any(c.role == "prefill" for c in everyone):
        return "mixed_worker" if role == "mixed" else "no_prefill_worker"
    if not ways.prefills:
        return "prefill_excluded"
    return None if ways.ready_prefills else "prefill_busy"


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

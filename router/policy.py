"""Where a request runs. Pure: facts about the request and the workers in, a decision out.

Of all ways (`ways.py`) the one that costs everyone least: latency, and targets missed
(`options.py`). Where it runs at last is decided as late as it can be: a worker gets a prompt when
those before it are nearly through, not to queue there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from baton.protocol.ids import Identity
from baton.router.candidates import Candidate, RequestFacts
from baton.router.loans import Loan
from baton.router.options import Option, Reading, cheapest, write
from baton.router.prediction import Prediction
from baton.router.reasons import reason_for
from baton.router.ways import Ways

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
            for o in sorted(self.others, key=lambda option: option.rank)[:ALTERNATIVES]
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

    ways = Ways(facts, prefills, receivers, receivers_exist, now)
    options = ways.options()
    if not options:
        if ways.throttled:
            return Wait.THROTTLED
        nobody = not receivers if receivers_exist else not prefills
        return Wait.EXCLUDED if nobody else Wait.BUSY
    best = cheapest(ways.within_roles(options))
    if _too_early(best.reading, ways.readers, now):
        return Wait.BUSY
    return _decision(facts, best, options, reason_for(facts, best, options, everyone, ways))


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

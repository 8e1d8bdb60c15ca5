"""The ways in which a request could be served, and what each costs. Pure.

The cost of a way is the latency that it adds for everyone, in seconds:

    own        to the first token; the hand-off that is not hidden; every expected token's interval
    others     that decode there: chunks between their tokens, and longer steps
    to come    prompts that will queue behind this one, or that one more decoding request slows
               down (`crowding.py`); and where it has to wait for its turn, those that wait in the
               router already
    role       a tenth of the time of work done against a worker's role, so that the division of
               the workers means something where two ways are alike
    missed     for each request that is expected to miss a target by it, what it was worth: the
               time that its targets give it. Expected: a prediction near the target is a chance

Scoring everything exactly would cost too much with many workers. So workers are ranked by a cheap
score, those for prompts and those for decoding on their own; the best few are looked at closely,
and each of these is combined with the best one of the other kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from baton.protocol.ids import Identity
from baton.router.candidates import Candidate, RequestFacts
from baton.router.crowding import EMPTY, Pool
from baton.router.loans import Lender, Loan, best_loan
from baton.router.prediction import Prediction
from baton.router.speed import WorkerModel

Score = TypeVar("Score", float, tuple[float, int])

FEW = 2
"""Workers of each kind that are looked at closely."""
AGAINST_ROLE = 0.1
DOUBT = 0.1
"""Of predictions, in logarithms: so far from a target it is missed (or kept) in one case of six."""
AFFINITY = 0.03
"""Of the cost: for so much, a session stays where it was and blocks where they are."""


@dataclass(slots=True)
class Reading:
    """This prompt on one worker."""

    worker: Candidate
    cached: int
    """Tokens, with what it borrows."""
    queue: float
    work: float
    own: float
    """Of `work`, what those that decode there lose."""
    ttft: float
    late: float
    """The chance that this is."""
    to_come: float
    loan: Loan | None = None


@dataclass(slots=True)
class Writing:
    """Its tokens on one worker."""

    worker: Candidate
    itl: float
    slow: float
    """The chance that this is too long."""
    missed: float
    """Others' targets, expected."""
    delay: float
    """Of others, all together."""
    to_come: float


@dataclass(slots=True)
class Option:
    reading: Reading
    writing: Writing
    local: bool
    exposed: float
    link_measured: bool
    harm: float
    missed: float
    """Targets, its own among them, expected."""
    cost: float
    plain: float
    """The cost without regard to affinity."""

    @property
    def rank(self) -> tuple[float, bool]:
        """The least is the best."""
        return (self.cost, self.local)

    def prediction(self, facts: RequestFacts) -> Prediction:
        reading, writing = self.reading, self.writing
        lag = 0.0 if self.local else writing.worker.model.correction.handoff
        return Prediction(
            ttft=reading.ttft,
            queue=reading.queue,
            prefill=reading.worker.model.correction.prefill * reading.work,
            exposed=self.exposed,
            itl=_own_interval(facts, writing, self.exposed),
            itl_others=writing.itl,
            work=reading.work,
            step=writing.itl,
            transfer=self.exposed - lag,
            harm=self.harm,
            measured=reading.worker.model.measured and writing.worker.model.measured,
            link_measured=self.link_measured,
        )


def best_readers(
    facts: RequestFacts,
    workers: Sequence[Candidate],
    now: float,
    price: float = 0.0,
    waiting: float = 0.0,
    few: int = FEW,
) -> list[Reading]:
    """The best for its prompt, the best first. `price`: seconds that other requests lose by each
    second of prompts; `waiting`: as of `read`."""
    held, tokens, size = facts.held, facts.tokens, facts.block_size
    if len(workers) > few:
        lent, fetching = _lent(facts)
        rest = tokens - lent
        scores = []
        for worker in workers:
            model = worker.model
            missing = tokens - held.get(worker.identity, 0) * size if held else tokens
            rate = model.rate * (1 + price) + model.harm_rate
            if missing > rest and fetching < rate:
                score = model.queued + rest * rate + (missing - rest) * fetching
            else:
                score = model.queued + missing * rate
            if model.head_until > now:
                score += model.head_until - now
            scores.append(score)
        workers = [workers[place] for place in _least(scores, few)]
    readings = [read(facts, worker, now, price, waiting) for worker in workers]
    readings.sort(key=lambda reading: reading.ttft + reading.to_come)
    return readings


def _least(scores: Sequence[Score], few: int) -> list[int]:
    """Where the `few` smallest are, in their order; of equal ones the first comes first."""
    left, places = list(scores), list(range(len(scores)))
    found = []
    for _ in range(min(few, len(left))):
        at = left.index(min(left))
        found.append(places.pop(at))
        del left[at]
    return found


def price_of_queue(facts: RequestFacts, workers: Sequence[Candidate], now: float) -> float:
    """Seconds that those who wait in the router behind this request lose by another second of
    prompts on these workers, while it waits for its turn there. (To use one that has time is no
    loss to anybody.) Each of them waits longer; and when the last one will hardly be in
    time, as many more will be late as could have been computed meanwhile. (Patient ones have time:
    a flood of them must not make up for what they would do to others elsewhere.)"""
    count, work = facts.behind
    if count <= 0 or not workers or facts.patient:
        return 0.0
    price = count / len(workers)
    if facts.ttft is not None and work > 0:
        each = work / count
        wait = (work + sum([worker.model.queue(now) for worker in workers])) / len(workers)
        price += chance_of_missing(wait + each, facts.ttft) * facts.worth / each
    return price


def _lent(facts: RequestFacts) -> tuple[int, float]:
    """Prompt tokens that others can lend to whoever has less, and seconds to fetch one of them."""
    if not facts.lenders:
        return 0, 0.0
    lender = facts.lenders[0]
    link = next(iter(lender.links.values()), None)
    if link is None:
        return 0, 0.0
    return lender.blocks * facts.block_size, link.byte * facts.token_bytes


def best_writers(
    facts: RequestFacts,
    workers: Sequence[Candidate],
    pool: Pool = EMPTY,
    few: int = FEW,
) -> list[Writing]:
    """The best for its tokens, the best first, and the one that has most of it cached."""
    if len(workers) > few:
        best = _least(
            [(worker.model.next_step, -worker.available_blocks) for worker in workers], few
        )
        if facts.held:
            held = facts.held
            cached = [held.get(worker.identity, 0) for worker in workers]
            most = max(cached)
            if most and cached.index(most) not in best:
                best.append(cached.index(most))
        workers = [workers[place] for place in best]
    writings = [write(facts, worker, pool) for worker in workers]
    writings.sort(key=lambda w: (w.missed, w.itl, -w.worker.available_blocks))
    return writings


def read(
    facts: RequestFacts, worker: Candidate, now: float, price: float = 0.0, waiting: float = 0.0
) -> Reading:
    """`waiting`: what a second of prompts costs besides where it has to wait for its turn."""
    model, tokens, size = worker.model, facts.tokens, facts.block_size
    blocks = facts.held.get(worker.identity, 0) if facts.held else 0
    cached = blocks * size
    work, own = model.prefill(tokens, cached)
    loan: Loan | None = None
    if facts.lenders:
        loan = best_loan(
            _reachable(facts, worker.identity), worker.identity, model, blocks, tokens, size,
            facts.token_bytes, work,
        )
        if loan is not None and loan.seconds is not None:
            cached = loan.blocks * size
            work, own = loan.rest
            work += loan.seconds
    queue = model.queue(now, work)
    to_come = work * price
    if waiting and model.has_enough(now, work):
        to_come += work * waiting
    if worker.role == "decode":
        to_come += AGAINST_ROLE * work
    ttft, due = model.first_token(queue, work), facts.due_in
    late = 0.0 if due is None else chance_of_missing(ttft, due)
    return Reading(worker, cached, queue, work, own, ttft, late, to_come, loan)


def _reachable(facts: RequestFacts, borrower: Identity) -> Sequence[Lender]:
    """A link that is cut carries no loans either."""
    if not facts.severed:
        return facts.lenders
    return [
        lender
        for lender in facts.lenders
        if (lender.identity, borrower) not in facts.severed
        and (borrower, lender.identity) not in facts.severed
    ]


def write(facts: RequestFacts, worker: Candidate, pool: Pool = EMPTY) -> Writing:
    model, output, decoding = worker.model, facts.output, worker.model.decoding
    added = model.added_step(facts.tokens + output / 2)
    itl = model.interval(model.step + added, facts.itl)
    missed = 0.0
    if decoding and model.itl is not None:
        missed = decoding * (chance_of_missing(itl, model.itl) - _missed_now(model))
    duration = output * itl
    to_come = 0.0
    if pool.pressure:
        slowing = model.slowing if decoding else model.slowed_by_first(facts.itl)
        to_come = duration * pool.slowing_price(slowing)
    if worker.role == "prefill" and facts.remaining > 1:
        to_come += AGAINST_ROLE * duration
    slow = 0.0
    if facts.itl is not None and facts.remaining > 1:
        slow = chance_of_missing(itl, facts.itl)
    return Writing(worker, itl, slow, missed, decoding * output * added, to_come)


def _missed_now(model: WorkerModel) -> float:
    """The chance that those that decode there miss their target as things are."""
    missed = model.missed
    if missed is None:
        assert model.itl is not None
        missed = model.missed = chance_of_missing(model.steady, model.itl)
    return missed


def chance_of_missing(predicted: float, target: float) -> float:
    """That a latency is above its target."""
    if target <= 0:
        return 1.0
    off = (predicted / target - 1) / DOUBT
    return 1 / (1 + math.exp(-1.7 * off)) if -6 < off < 6 else float(off > 0)


def combine(facts: RequestFacts, reading: Reading, writing: Writing) -> Option:
    local = reading.worker is writing.worker
    exposed, measured = (0.0, True) if local else exposed_transfer(facts, reading, writing.worker)
    model, output, itl = reading.worker.model, facts.output, writing.itl
    # Those that decode where the prompt is computed lose its chunks' time.
    harm = writing.delay + model.decoding * reading.own
    missed = writing.missed
    if model.decoding and model.itl is not None:
        before = model.steady
        missed_before = _missed_now(model)
        if local:
            before, missed_before = itl, chance_of_missing(itl, model.itl)
        slower = before + reading.own / (output if output > 1.0 else 1.0)
        missed += model.decoding * (chance_of_missing(slower, model.itl) - missed_before)
    value = missed * output * (writing.worker.model.itl or model.itl or 0.0)
    slow, late = writing.slow, reading.late
    if exposed and facts.itl is not None and output > 2:
        slow = chance_of_missing(_own_interval(facts, writing, exposed), facts.itl)
    if late or slow:
        lost = 1 - (1 - late) * (1 - slow)
        missed += lost
        value += lost * facts.worth
    plain = (
        reading.ttft + exposed + output * itl + harm + reading.to_come + writing.to_come + value
    )
    cost = plain
    if facts.affinity or facts.held:
        cost -= plain * AFFINITY * _nearness(facts, reading, writing)
    return Option(reading, writing, local, exposed, measured, harm, missed, cost, plain)


def cheapest(options: Sequence[Option]) -> Option:
    """Of several that cost the same one that hands over."""
    best = options[0]
    for option in options:
        if option.cost <= best.cost and (option.cost < best.cost or option.local < best.local):
            best = option
    return best


def dearer_together(facts: RequestFacts, writing: Writing, than: Option) -> bool:
    """Whether computing the prompt where it is decoded costs more than another way in any case,
    however much of it is cached or can be fetched. Cheap to ask: mostly it is."""
    model, output = writing.worker.model, facts.output
    missing = facts.tokens - max(facts.held.values()) * facts.block_size if facts.held else (
        facts.tokens
    )
    least = max(1, missing) * model.speed.token
    cost = output * writing.itl + writing.delay + writing.to_come + least * model.decoding
    if writing.missed < 0:
        cost += writing.missed * output * (model.itl or 0.0)
    return cost * (1 - AFFINITY) > than.plain


def pairs(readings: Sequence[Reading], writings: Sequence[Writing]) -> list[
    tuple[Reading, Writing]
]:
    """The best of each kind with all of the other kind."""
    if not readings or not writings:
        return []
    reading, writing = readings[0], writings[0]
    found = [(reading, other) for other in writings]
    found += [(other, writing) for other in readings[1:]]
    return found


def exposed_transfer(
    facts: RequestFacts, reading: Reading, receiver: Candidate
) -> tuple[float, bool]:
    """Seconds of a hand-off that no computing hides, and whether the link's speed is known. What
    is computed in the last chunk travels after it; all that went before, meanwhile, if the link
    is as fast as the computing."""
    lag = receiver.model.correction.handoff
    link = reading.worker.model.links.get(receiver.identity.node_id)
    if link is None:
        return lag, False
    cached = facts.held.get(receiver.identity, 0) * facts.block_size if facts.held else 0
    travelling = max(0, facts.tokens - cached)
    chunk = reading.worker.model.chunk
    last = min(travelling, (facts.tokens - reading.cached - 1) % chunk + 1)
    waiting = link.byte * facts.token_bytes * travelling - reading.work
    return lag + max(link.seconds(last * facts.token_bytes), waiting), True


def _own_interval(facts: RequestFacts, writing: Writing, exposed: float) -> float:
    return writing.itl + exposed / max(1.0, facts.output - 1)


def _nearness(facts: RequestFacts, reading: Reading, writing: Writing) -> float:
    """0 to 1: how far this is where the session, or its blocks, were before."""
    if facts.affinity:
        ours = facts.affinity
        if writing.worker.identity in ours:
            return 1.0
        if reading.worker.identity in ours:
            return 0.75
    if not facts.held:
        return 0.0
    held = facts.held.get(writing.worker.identity, 0)
    return min(0.5, held / (2 * facts.blocks)) if facts.blocks else 0.0

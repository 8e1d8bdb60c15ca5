"""Why a decision is what it is, in a word.

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

from collections.abc import Sequence

from baton.router.candidates import Candidate, RequestFacts
from baton.router.options import Option
from baton.router.ways import Ways


def reason_for(
    facts: RequestFacts,
    best: Option,
    options: Sequence[Option],
    everyone: Sequence[Candidate],
    ways: Ways,
) -> str:
    """`best` is what was chosen of `options`; `everyone` also who may not be asked now."""
    if best.missed > 0.5:
        return "least_bad"
    forced = _forced(facts, best, everyone, ways)
    if forced is not None and not (forced == "mixed_worker" and len(options) > 1):
        return forced
    if facts.affinity and best is not min(options, key=lambda option: option.plain):
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
    rival = min((o for o in options if not o.local), key=lambda o: o.rank, default=None)
    if rival is None and ways.severed:
        return "severed"
    if best.writing.worker.role == "prefill":
        slower = rival is None or rival.writing.itl > best.writing.itl
        return "decode_busy" if slower else "handoff_dear"
    if rival is None or rival.reading.queue > best.reading.queue:
        return "prefill_busy"
    return "handoff_dear"


def _forced(
    facts: RequestFacts, best: Option, everyone: Sequence[Candidate], ways: Ways
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

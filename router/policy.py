"""Where a request runs. Pure: facts about the request and the workers in, a decision out.

    prefill workers and receivers (decode, mixed)   remote
    mixed, or no prefill worker                     local on the receiver
    prefill workers only                            local on one of them (it has both stages)

Costs are compared by counts for now; a measured cost model replaces `_prefill_cost` and
`_headroom`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from baton.protocol.ids import Identity

ROLES = ("prefill", "decode", "mixed")

RECOMPUTE_TOKENS = 512
"""Prompt tokens that a worker with running streams may have to recompute at a time: a chunk."""


MIN_LOAN_BLOCKS = 8
"""KV blocks that another worker must have more of before it is worth while to fetch them."""


@dataclass(frozen=True, slots=True)
class RequestFacts:
    tokens: int
    """Prompt and accepted tokens: what has to be computed before the next one."""
    blocks: int
    """KV blocks that these take, and the next token."""
    remaining: int
    """Output tokens still wanted at most."""
    recompute: bool = False
    """Its KV went with a worker that was lost."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that is ready, as the policy sees it."""

    identity: Identity
    role: str
    max_running: int
    decoding: int
    """Requests of ours that it decodes, or will."""
    prefilling: int
    """Requests of ours whose first token it owes."""
    prefill_tokens: int
    """The prompt tokens of these."""
    waiting_tokens: int
    """Prompt tokens not computed yet, by its last heartbeat."""
    available_blocks: int
    """Free or only cached, less what was promised since the last heartbeat."""
    recompute_tokens: int = 0
    """Of `prefill_tokens`, those of requests whose KV went with a lost worker."""
    cached_blocks: int = 0
    """Leading blocks of this request that it is likely to have."""


@dataclass(frozen=True, slots=True)
class Decision:
    route: str
    """"remote" or "local"."""
    decode: Identity
    prefill: Identity | None
    reason: str


class Wait(Enum):
    """Why there is no decision now."""

    BUSY = "busy"
    """Workers that could serve it are full."""
    THROTTLED = "throttled"
    """As much is recomputed already as the streams of these workers can bear."""
    EXCLUDED = "excluded"
    """The ones that are left declined a moment ago."""
    NO_WORKER = "no_worker"


def decide(
    facts: RequestFacts, candidates: Iterable[Candidate], exclude: Collection[Identity] = ()
) -> Decision | Wait:
    """`exclude`: workers that declined this request a moment ago."""
    everyone = list(candidates)
    if not everyone:
        return Wait.NO_WORKER
    receivers_exist = any(c.role != "prefill" for c in everyone)
    usable = [c for c in everyone if c.identity not in exclude]
    prefills = [c for c in usable if c.role == "prefill"]
    receivers = [c for c in usable if c.role != "prefill"]

    if not receivers_exist:
        return _local(facts, prefills, "no_decode_worker")
    if not receivers:
        return Wait.EXCLUDED
    ready_prefills = [c for c in prefills if c.prefilling < c.max_running]
    if facts.remaining <= 1 and ready_prefills:
        only = min(ready_prefills, key=_prefill_cost)
        return Decision("local", only.identity, None, "single_token")
    if ready_prefills:
        ready = _with_room(facts, receivers)
        if not ready:
            return Wait.BUSY
        decode = max(ready, key=_headroom)
        prefill = min(ready_prefills, key=_prefill_cost)
        return Decision("remote", decode.identity, prefill.identity, "split")
    mixed = [c for c in receivers if c.role == "mixed"]
    if prefills:
        return _local(facts, mixed, "prefill_busy")
    if any(c.role == "prefill" for c in everyone):
        return _local(facts, receivers, "prefill_excluded")
    if mixed:
        decision = _local(facts, receivers, "mixed_worker")
        if isinstance(decision, Decision) and decision.decode not in {c.identity for c in mixed}:
            return Decision("local", decision.decode, None, "no_prefill_worker")
        return decision
    return _local(facts, receivers, "no_prefill_worker")


def receiver_for(facts: RequestFacts, candidates: Iterable[Candidate]) -> Identity | None:
    """Where a request that decodes can be moved to, without asking in vain: it stands still until
    it is there. Blocks are spared for all that grow."""
    roomy = [
        c
        for c in candidates
        if c.decoding < c.max_running and facts.blocks + c.decoding <= c.available_blocks
    ]
    receivers = [c for c in roomy if c.role != "prefill"] or roomy
    return max(receivers, key=_headroom).identity if receivers else None


def lender_for(own: int, others: Mapping[Identity, int]) -> Identity | None:
    """Who lends to a worker that has `own` leading blocks of a prompt; `others`: how many each of
    those that could has. None when it is not worth while."""
    if not others:
        return None
    best = max(others, key=lambda identity: (others[identity], identity.node_id))
    return best if others[best] - own >= MIN_LOAN_BLOCKS else None


def _local(facts: RequestFacts, workers: list[Candidate], reason: str) -> Decision | Wait:
    if not workers:
        return Wait.EXCLUDED if reason == "no_decode_worker" else Wait.BUSY
    ready = _with_room(facts, workers)
    if not ready:
        return Wait.BUSY
    ready = [c for c in ready if not facts.recompute or _may_recompute(facts, c)]
    if not ready:
        return Wait.THROTTLED
    return Decision("local", max(ready, key=_headroom).identity, None, reason)


def _with_room(facts: RequestFacts, workers: list[Candidate]) -> list[Candidate]:
    """A worker without work is asked even if its blocks look too few: only it knows for sure,
    and nothing that we could wait for would free any."""
    return [
        c
        for c in workers
        if c.decoding < c.max_running
        and (facts.blocks <= c.available_blocks or c.decoding + c.prefilling == 0)
    ]


def _may_recompute(facts: RequestFacts, worker: Candidate) -> bool:
    """After a failure everything that was lost comes at once. Where streams run, only so much of
    it may be under way at a time that these keep their inter-token latency; one always may."""
    if worker.decoding <= worker.prefilling or worker.recompute_tokens == 0:
        return True
    return worker.recompute_tokens + facts.tokens <= RECOMPUTE_TOKENS


def _prefill_cost(worker: Candidate) -> tuple[int, int, str]:
    queue = worker.waiting_tokens + worker.prefill_tokens
    return (queue, -worker.cached_blocks, worker.identity.node_id)


def _headroom(worker: Candidate) -> tuple[float, int, int, int]:
    free_share = 1 - worker.decoding / max(1, worker.max_running)
    return (free_share, -worker.prefill_tokens, worker.cached_blocks, worker.available_blocks)

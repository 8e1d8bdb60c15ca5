"""One sequence in the engine: the request record, its tokens so far, and where its KV lies.

Life cycle (moved only by the scheduler, on the engine thread):

    WAITING --scheduled--> RUNNING --finished/cancelled--> gone
       ^                   ^ |  |
       +----preempted------|-+  +--first token of a `hold` sequence--> HELD --released--> gone
                           |
    RESERVED --admitted----+   (adopted, or released unadmitted: gone)

A running sequence that is parked becomes HELD too, and one that only pins what is cached of its
tokens is so from the start. Decode state is (request, tokens) alone, so a preempted or migrated
sequence is simply computed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from baton.protocol.ids import RequestKey
from baton.protocol.records import Request, TokenLogprobs
from baton.protocol.tokens import unpack_tokens

Rank = tuple[bool, bool, int, bool, float, int]
"""Smaller goes first: (not aged, no target and not interactive, -priority, late, due, arrival). It
is total, for arrivals differ. See `order.py`."""


class SequenceState(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    HELD = "held"
    RESERVED = "reserved"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class Sequence:
    request: Request
    hold: bool
    """Prefill stage: stop after the first token and keep the blocks until released."""
    prompt_len: int
    tokens: list[int]
    """Prompt, then all output."""
    state: SequenceState = SequenceState.WAITING
    block_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    """Tokens whose KV is in `block_ids`."""
    num_cached: int = 0
    """Of these, found in the prefix cache at the last admission."""
    block_hashes: list[bytes] = field(default_factory=list)
    """Chain over the full blocks of `tokens`, extended as they fill."""

    # The rest is the scheduler's own.
    itl: float = math.inf
    """The target between its tokens, in seconds."""
    due_from: float | None = None
    """Its token number n is due at `due_from + n * itl`, for then its tokens come at the target on
    average. None: it does not stream, or has no target."""
    loan: bool = False
    """Reserved for the prefix cache only."""
    pinned: bool = False
    """Nothing is computed: it is there to keep the cached blocks of its tokens."""
    root: bytes = b""
    """What the chain of hashes starts from."""
    num_named: int = 0
    """Leading blocks whose content the pool knows by its hash."""
    rank: Rank = (True, False, 0, False, 0.0, 0)
    due: float | None = None
    """When its first token should be there, on the clock of the scheduler; None: no target."""
    awaits: bytes | None = None
    """While waiting: hash of the block that a running sequence was computing for it."""
    submitted_at: float = 0.0
    scheduled_at: float | None = None
    """Time of the first admission."""
    reported: bool = False
    """The first token of this attempt, with phases and cached tokens, was published."""
    cached_at_first: int = 0
    """`num_cached` at the first admission, before any preemption."""
    prompt_logprobs: list[TokenLogprobs] | None = None
    """Collected so far, for prompt tokens from the second on. None: not asked for, or told."""

    @classmethod
    def from_request(cls, request: Request, *, hold: bool) -> Sequence:
        tokens = unpack_tokens(request.prompt)
        prompt_len = len(tokens)
        if request.accepted:
            tokens += unpack_tokens(request.accepted)
        seq = cls(request, hold, prompt_len, tokens)
        if request.targets.itl is not None and request.targets.firm:
            seq.itl = request.targets.itl
        return seq

    def stream_from(self, now: float) -> None:
        """The last of `tokens` is out now."""
        if self.itl < math.inf:
            self.due_from = now - self.itl * len(self.tokens)

    @property
    def key(self) -> RequestKey:
        return self.request.key

    @property
    def num_output(self) -> int:
        """Output tokens so far, over all attempts: the output position of the next one."""
        return len(self.tokens) - self.prompt_len

    @property
    def num_uncomputed(self) -> int:
        """Tokens still without KV; 1 in steady decode."""
        return len(self.tokens) - self.num_computed

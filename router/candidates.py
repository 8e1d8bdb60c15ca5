"""What decisions are made from: facts about a request, and workers as a router sees them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from baton.protocol.ids import Identity
from baton.router.loans import Lender
from baton.router.speed import WorkerModel

ROLES = ("prefill", "decode", "mixed")

URGENT = 5.0
"""Seconds until it is due, within which a request is urgent."""
PATIENT = 10.0
"""Seconds of a target for first tokens, above which requests are patient: they give way to urgent
ones wherever they meet, for what is due far later than the first of a step waits for another step.
Also when their own time runs out: in a flood of them it has for all, and they would be urgent, all
of them, for good."""


def is_patient(ttft: float | None) -> bool:
    """Of a request with this target."""
    return ttft is not None and ttft > PATIENT


class RequestFacts(msgspec.Struct, frozen=True):
    tokens: int
    """Prompt and accepted tokens: what has to be computed before the next one."""
    blocks: int
    """KV blocks that these take, and the next token."""
    remaining: int
    """Output tokens still wanted at most."""
    recompute: bool = False
    """Its KV went with a worker that was lost."""
    expected: float | None = None
    """Output tokens still to come, by what others had of late. None: all that remain."""
    due_in: float | None = None
    """Seconds until its first token should be there. None: no target."""
    ttft: float | None = None
    """Target for its first token from its arrival on, in seconds."""
    itl: float | None = None
    """Target for its tokens' intervals, in seconds."""
    strict_roles: bool = False
    """Workers keep to their roles as long as there are others for the rest."""
    tightest: tuple[float | None, float] = (None, 0.0)
    """The tightest target for first tokens that requests have come with of late, and what one of
    these is `worth`."""
    firm: bool = True
    """Somebody asked for these targets."""
    behind: tuple[int, float] = (0, 0.0)
    """Requests of its lane that wait in the router with it and can still make it, and the seconds
    of their prefills."""
    held: Mapping[Identity, int] = {}
    """Leading blocks of it that workers have in their caches."""
    block_size: int = 16
    """Tokens of these blocks."""
    token_bytes: int = 0
    """Bytes of KV a token."""
    affinity: Collection[Identity] = ()
    """Workers that served its session before: taken when it costs next to nothing."""
    lenders: Sequence[Lender] = ()
    """Workers that can lend what they have cached of it."""
    severed: Collection[tuple[Identity, Identity]] = ()
    """Who computes prompts and who decodes, between whom hand-offs fail (`severed.py`)."""

    @property
    def output(self) -> float:
        """Tokens still to come, as far as is known."""
        return self.remaining if self.expected is None else min(self.expected, self.remaining)

    @property
    def urgent(self) -> bool:
        """Whether patient prompts give way to it. (To one that is late already they do not.)"""
        return self.due_in is not None and 0 < self.due_in <= URGENT and not self.patient

    @property
    def patient(self) -> bool:
        """Whether it gives way to urgent ones."""
        return is_patient(self.ttft)

    @property
    def worth(self) -> float:
        """Seconds that its targets give it: what is lost when it misses one."""
        return (self.ttft or self.due_in or 0.0) + self.output * (self.itl or 0.0)

class Candidate(msgspec.Struct, frozen=True):
    """A worker that is ready, as the policy sees it."""

    identity: Identity
    role: str
    max_running: int
    decoding: int
    """Requests of ours that it decodes, or will."""
    prefilling: int
    """Requests of ours whose first token it owes."""
    available_blocks: int
    """Free or only cached, less what was promised since the last heartbeat."""
    recompute_tokens: int = 0
    """Prompt tokens that it computes anew because they went with a lost worker."""
    full: bool = False
    """It declined a request for lack of room, and nothing of it has ended since."""
    model: WorkerModel = msgspec.field(default_factory=WorkerModel)
    urgent: Candidate | None = None
    """As a request sees it that is urgent: without the prompts that give way to that. None: there
    are none of these."""

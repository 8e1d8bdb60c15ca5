"""One sequence in the engine: the request record, its tokens so far, and where its KV lies.

Life cycle (moved only by the scheduler, on the engine thread):

    WAITING --scheduled--> RUNNING --finished/cancelled--> gone
       ^                     |  |
       +-----preempted-------+  +--first token of a `hold` sequence--> HELD --released--> gone

Decode state is (request, tokens) alone, so a preempted or migrated sequence is simply computed
again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from baton.protocol.ids import RequestKey
from baton.protocol.records import Request
from baton.protocol.tokens import unpack_tokens


class SequenceState(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    HELD = "held"


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

    @classmethod
    def from_request(cls, request: Request, *, hold: bool) -> Sequence:
        prompt = unpack_tokens(request.prompt)
        return cls(request, hold, len(prompt), prompt + unpack_tokens(request.accepted))

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

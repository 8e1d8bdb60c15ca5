"""What became of one choice, as one record: for journal, decisions page and `baton explain`.

Times are in seconds after its arrival, or as long as they lasted; `arrived` alone is a clock time.
No text and no token.
"""

from __future__ import annotations

from typing import Any

import msgspec

FORMAT = 1
DEPTH_TOKENS = 64
DENSE_TOKENS = 1024
SPARSE_TOKENS = 512
"""The prompt's prefixes are named every so many tokens: densely at first, where system prompts end,
then sparsely."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision and what it led to."""

    at: float
    route: str
    reason: str
    prefill: str | None = None
    """The worker that computed the prompt for another; None where one did both."""
    decode: str
    predicted: dict[str, float] | None = None
    """The prediction that it was taken by: its fields by name, in seconds."""
    others: tuple[dict[str, Any], ...] = ()
    """The best ways not taken: as the fields above."""


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    format: int = msgspec.field(default=FORMAT, name="v")
    id: str
    """The response's id and the number of the choice."""
    router: str = ""
    arrived: float
    """Unix time in seconds."""
    lane: str
    priority: int = 0
    ttft_target: float | None = None
    itl_target: float | None = None
    prompt_tokens: int
    cached_tokens: int | None = None
    """Of the prompt, found in a cache. None: it never got so far."""
    max_tokens: int
    output_tokens: int = 0
    prefix: tuple[str, ...] = ()
    """Names of the prompt's prefixes at `prefix_depths`: equal name, equal tokens so far."""
    block_size: int = 0
    """Tokens of the blocks that `prefix` is counted in."""
    attempts: tuple[Attempt, ...] = ()
    queue: float | None = None
    """Until it was first sent to workers."""
    ttft: float | None = None
    itl: float | None = None
    """The mean."""
    e2e: float | None = None
    """None while it runs."""
    phases: dict[str, float] = {}
    """Seconds per phase on the workers, all attempts together."""
    outcome: str
    """"completed", "cancelled", "refused", "failed" or "running"."""
    finish: str | None = None
    """A finish reason or an error's code."""

    @property
    def attained(self) -> bool | None:
        """Whether it kept both targets. None: it runs, or the client gave it up too early to
        tell."""
        if self.outcome == "running" or (self.outcome == "cancelled" and self.ttft is None):
            return None
        if self.outcome in ("refused", "failed") or self.ttft is None:
            return False
        late = self.ttft_target is not None and self.ttft > self.ttft_target
        slow = self.itl_target is not None and self.itl is not None and self.itl > self.itl_target
        return not late and not slow


def prefix_depths(prompt_tokens: int, block_size: int) -> list[int]:
    """In blocks: after how many of them `Account.prefix` names the prompt's beginning."""
    whole = prompt_tokens // block_size
    dense, sparse, limit = (
        max(1, tokens // block_size) for tokens in (DEPTH_TOKENS, SPARSE_TOKENS, DENSE_TOKENS)
    )
    depths = list(range(dense, min(whole, limit) + 1, dense))
    depths += range(limit + sparse, whole + 1, sparse)
    return depths

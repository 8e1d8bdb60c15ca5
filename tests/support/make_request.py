"""Short ways to make request records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baton.protocol.ids import RequestKey
from baton.protocol.records import Request, Targets
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens


def make_request(
    name: str,
    prompt: Sequence[int],
    *,
    max_tokens: int = 4,
    accepted: Sequence[int] = (),
    eos: tuple[int, ...] = (),
    priority: int = 0,
    lane: str = "interactive",
    cache_salt: str = "",
    attempt: int = 1,
    itl: float | None = None,
    due_in: float | None = None,
    seed: int = 0,
    **sampling: Any,
) -> Request:
    """A greedy request for `prompt`, without an end token unless `eos` names some."""
    return Request(
        key=RequestKey(name, attempt),
        choice=0,
        prompt=pack_tokens(prompt),
        accepted=pack_tokens(accepted),
        sampling=SamplingParams(seed=seed, max_tokens=max_tokens, temperature=0.0, **sampling),
        eos_token_ids=eos,
        cache_salt=cache_salt,
        lane=lane,
        priority=priority,
        targets=Targets(itl=itl),
        due_in=due_in,
    )

"""How much a worker takes on, and how its role divides a step between prefill and decode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Role = Literal["prefill", "decode", "mixed"]
ROLES: tuple[str, ...] = get_args(Role)

_PREFILL_SHARE: dict[str, float] = {"prefill": 1.0, "mixed": 0.5, "decode": 0.25}


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Raises ValueError when the numbers contradict each other."""

    max_model_len: int
    """Tokens of one sequence, prompt and output."""
    max_running: int = 64
    """Sequences that run or have reserved the right to."""
    max_batch_tokens: int = 2048
    """Tokens computed in one step, over all sequences; what activations are sized for."""
    prefill_chunk: int = 512
    """Largest part of one prompt in a step. What is finished can be handed over while the next
    chunk is computed, so smaller hides more of the transfer and larger computes faster."""
    prefill_share: dict[str, float] = field(default_factory=lambda: dict(_PREFILL_SHARE))
    """By role: the part of `max_batch_tokens` that prompts get in a step that also decodes."""

    kv_share: float = 0.5
    """Part of the pool that the prompt of one sequence with a due time, or a reservation for it,
    may have while smaller ones wait (until it has aged)."""

    def __post_init__(self) -> None:
        for name in ("max_model_len", "max_running", "prefill_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_batch_tokens <= self.max_running:
            raise ValueError(
                f"max_batch_tokens ({self.max_batch_tokens}) must exceed max_running "
                f"({self.max_running}), or a full batch of decodes leaves no room for prompts"
            )
        if set(self.prefill_share) != set(ROLES):
            raise ValueError(f"prefill_share must name the roles {', '.join(ROLES)}")

    def prefill_budget(self, role: str, decodes: int) -> int:
        """Prompt tokens that a step with this many decoding sequences may compute, at least 1.
        With none there is no inter-token latency to protect, so the role does not matter."""
        left = self.max_batch_tokens - decodes
        if decodes == 0:
            return left
        return max(1, min(left, int(self.prefill_share[role] * self.max_batch_tokens)))

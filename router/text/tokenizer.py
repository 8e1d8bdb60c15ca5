"""What the router needs of a tokenizer. `baton.engine.tokenizer` provides it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class DecodeStream(Protocol):
    """Turns one sequence's tokens to text, one at a time."""

    def step(self, token_id: int, /) -> str | None:
        """The text that became certain with this token; None while it ends inside a character."""
        ...


class Tokenizer(Protocol):
    """Text to token ids and back, and the model's chat template. Safe to call from any thread."""

    @property
    def eos_token_ids(self) -> Sequence[int]: ...

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def decode_stream(self) -> DecodeStream: ...

    def token_text(self, token_id: int, /) -> str: ...

    def token_bytes(self, token_id: int, /) -> bytes: ...

    def render_chat(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt text. Raises ValueError when the template refuses the messages, or when the
        model has none."""
        ...

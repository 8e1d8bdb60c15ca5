"""What the router needs of a tokenizer. `baton.engine.tokenizer` provides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Detokenizer(Protocol):
    """One output's tokens to text, as they come, never splitting a character."""

    def push(self, ids: Sequence[int]) -> str:
        """The text that `ids` complete; may be empty."""
        ...

    def finish(self) -> str:
        """What was held back; called once, at the end."""
        ...


class Tokenizer(Protocol):
    """Text to token ids and back, and the model's chat template. Safe to call from any thread."""

    @property
    def eos_token_ids(self) -> Sequence[int]: ...

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def fewest_tokens(self, text: str) -> int:
        """A lower bound of `len(encode(text))`, without encoding it."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def decode_stream(self, prompt_ids: Sequence[int] = ()) -> Detokenizer:
        """For the output that follows `prompt_ids`. Special tokens give no text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """What the token stands for, special tokens by their names."""
        ...

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text. Raises BatonError(invalid_value) when the template refuses the
        messages, or when the model has none."""
        ...

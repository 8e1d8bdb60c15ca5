"""Token ids to text as they come, without ever splitting a character.

One per output stream. `push` returns text that will not change any more; `finish`, once, what was
held back. All returned pieces together are the text of all pushed ids; only how many U+FFFD stand
for bytes that are no text may differ.

Two ways. A byte-level vocabulary (Llama 3, Qwen, SmolLM) spells bytes, so a table and an
incremental UTF-8 decoder do, and cost the same for every token. Other vocabularies have rules that
look at the neighbours (spaces, byte fallback), which the `tokenizers` library applies to a short
window.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

_CONTEXT = 6
"""Prompt tokens that are looked at, so that the first output token knows what it follows."""
_MAX_TOKENS_OF_CHARACTER = 4


class Detokenizer(ABC):
    @abstractmethod
    def push(self, ids: Sequence[int]) -> str:
        """The text that `ids` complete; may be empty. Ids without a token give no text."""

    @abstractmethod
    def finish(self) -> str:
        """What is left: an unfinished character shows as U+FFFD."""


class ByteDetokenizer(Detokenizer):
    def __init__(self, bytes_of: Callable[[int], bytes], prompt_ids: Sequence[int]) -> None:
        """`bytes_of(id)`: the bytes that an output token adds, empty for skipped ones."""
        self._bytes_of = bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # A prompt given as ids may end within a character, which the output then completes.
        self._utf8.decode(b"".join(map(bytes_of, prompt_ids[-_CONTEXT:])))

    def push(self, ids: Sequence[int]) -> str:
        return self._utf8.decode(b"".join(map(self._bytes_of, ids)))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class WindowDetokenizer(Detokenizer):
    """Decodes the last ids with and without the new ones; the difference is new text. Ids that
    became text are the context of the next ones."""

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int]) -> None:
        self._decode = decode
        self._context = list(prompt_ids[-_CONTEXT:])
        self._pending: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        return "".join(map(self._push_one, ids))

    def finish(self) -> str:
        return self._take(self._decode(self._context + self._pending)) if self._pending else ""

    def _push_one(self, index: int) -> str:
        self._pending.append(index)
        text = self._decode(self._context + self._pending)
        # A character takes at most four tokens: what is still broken after more stays broken.
        if text.endswith("\ufffd") and len(self._pending) <= _MAX_TOKENS_OF_CHARACTER:
            return ""
        return self._take(text)

    def _take(self, text: str) -> str:
        new = text[len(self._decode(self._context)) :]
        # Ids without text (skipped special tokens) say nothing about the space that follows.
        self._context = self._pending if new else (self._context + self._pending)[-_CONTEXT:]
        self._pending = []
        return new

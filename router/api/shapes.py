"""The shapes of answers, whole and as chunks; completions and chat differ only here."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from baton.router.api.generation import Choice
from baton.router.api.sse import event
from baton.router.text.logprobs import chat_logprobs, completion_logprobs
from baton.router.text.output import Entry, Piece
from baton.router.text.tokenizer import Tokenizer

# Stands for the text in a rendered chunk, to be cut out; no model's name contains it.
_MARKER = secrets.token_hex(16)


class Shape(Protocol):
    """Head of the response object, and what one choice looks like."""

    head: dict[str, Any]
    chunk_head: dict[str, Any]

    def choice(self, choice: Choice) -> dict[str, Any]: ...

    def chunk_choice(self, index: int, piece: Piece) -> dict[str, Any]: ...

    def opening_choice(self, index: int) -> dict[str, Any] | None:
        """What a stream says about a choice before its first token."""
        ...


class CompletionShape:
    def __init__(
        self, head: dict[str, Any], tokenizer: Tokenizer, num_logprobs: int | None
    ) -> None:
        self.head = self.chunk_head = {**head, "object": "text_completion"}
        self._tokenizer = tokenizer
        self._num_logprobs = num_logprobs

    def choice(self, choice: Choice) -> dict[str, Any]:
        return self.chunk_choice(choice.index, choice.piece)

    def chunk_choice(self, index: int, piece: Piece) -> dict[str, Any]:
        logprobs = None
        if self._num_logprobs is not None:
            logprobs = completion_logprobs(self._tokenizer, piece.entries, self._num_logprobs)
        return {
            "index": index,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
            **_token_ids(piece),
        }

    def opening_choice(self, index: int) -> dict[str, Any] | None:
        return None


class ChatShape:
    def __init__(
        self, head: dict[str, Any], tokenizer: Tokenizer, num_logprobs: int | None
    ) -> None:
        self.head = {**head, "object": "chat.completion"}
        self.chunk_head = {**head, "object": "chat.completion.chunk"}
        self._tokenizer = tokenizer
        self._num_logprobs = num_logprobs

    def choice(self, choice: Choice) -> dict[str, Any]:
        piece = choice.piece
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": piece.text, "refusal": None},
            "logprobs": self._logprobs(piece.entries),
            "finish_reason": piece.finish_reason,
            **_token_ids(piece),
        }

    def chunk_choice(self, index: int, piece: Piece) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": self._logprobs(piece.entries) if piece.entries else None,
            "finish_reason": piece.finish_reason,
            **_token_ids(piece),
        }

    def opening_choice(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _logprobs(self, entries: Sequence[Entry]) -> dict[str, Any] | None:
        if self._num_logprobs is None:
            return None
        return chat_logprobs(self._tokenizer, entries, self._num_logprobs)


def _token_ids(piece: Piece) -> dict[str, Any]:
    return {"token_ids": piece.token_ids} if piece.token_ids else {}


class ChunkWriter:
    """Renders one choice's chunks. The common one, text and nothing else, is two constant pieces
    around the escaped text. `usage`: what each chunk says was used until then."""

    def __init__(
        self,
        shape: Shape,
        index: int,
        *,
        include_usage: bool,
        usage: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._shape = shape
        self._index = index
        self._usage = usage
        self._tail: dict[str, Any] = {"usage": None} if include_usage else {}
        opening = shape.opening_choice(index)
        self._opening = self._event(opening) if opening is not None else b""
        plain = self._event(shape.chunk_choice(index, Piece(_MARKER)))
        self._prefix, self._suffix = plain.split(b'"' + _MARKER.encode() + b'"')
        self._has_logprobs = b'"logprobs":null' not in plain

    def render(self, piece: Piece) -> bytes:
        """Events for a piece; empty when there is nothing to tell yet."""
        opening, self._opening = self._opening, b""
        special = piece.entries or piece.token_ids or piece.finish_reason is not None
        if special or (piece.text and (self._has_logprobs or self._usage is not None)):
            return opening + self._event(self._shape.chunk_choice(self._index, piece))
        if piece.text:
            return opening + self._prefix + msgspec.json.encode(piece.text) + self._suffix
        return opening

    def _event(self, choice: dict[str, Any]) -> bytes:
        tail = self._tail if self._usage is None else {"usage": self._usage()}
        return event({**self._shape.chunk_head, "choices": [choice], **tail})

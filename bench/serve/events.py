"""A stream of server-sent events, read when it is over: the packets with their times become pieces
with their tokens. Pure.

While a stream runs nothing is parsed: each packet costs its time stamp and an append.

| tokens are counted by | where |
|---|---|
| token ids | the server tells them (`return_token_ids`) |
| log probabilities | they were asked for |
| pieces | there are as many as the server bills |
| tokenizer | one was given |
| share of text | else: what the server bills, by the length of each piece |
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import msgspec

Tokenize = Callable[[str], int]
"""How many tokens a text has."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str:
        return self.content or self.reasoning_content or self.reasoning or ""


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: _Usage | None = None
    error: Any = None


_EVENT = re.compile(rb"^(data|event|id|retry)?:", re.MULTILINE)
"""A line of server-sent events; one that begins with a colon is a comment."""
_decode = msgspec.json.Decoder(_Event).decode


@dataclass(slots=True)
class Answer:
    """A whole stream. Times are those of the packets."""

    pieces: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ids: list[int] | None = None
    finish: str | None = None
    error: str | None = None
    """Code or type of an error in the midst of the stream."""
    detail: str = ""
    prompt: int | None = None
    """Tokens, as billed."""
    billed: int | None = None
    """Output tokens."""
    cached: int = 0
    counted_by: str = ""

    @property
    def text(self) -> str:
        return "".join(self.texts)


def answer_of(
    times: Sequence[float], packets: Sequence[bytes], tokenize: Tokenize | None = None
) -> Answer:
    """Raises nothing: what cannot be read is an error of the answer."""
    answer = Answer()
    whole = b"".join(packets)
    if whole.strip() and not _EVENT.search(whole):
        answer.error, answer.detail = "no_stream", f"no server-sent events, but: {one_line(whole)}"
        return answer
    told: list[int] = []
    logged: list[int] = []
    ids: list[int] = []
    ends = list(accumulate(len(packet) for packet in packets))
    at = 0
    for line in whole.split(b"\n"):
        at += len(line) + 1
        if not line.startswith(b"data:"):
            continue
        payload = line[5:].strip()
        if payload == b"[DONE]" or not payload:
            continue
        # Whole when its last byte is here; the line's own end may come later.
        arrived = times[min(len(times) - 1, bisect_left(ends, at - 1))]
        try:
            event = _decode(payload)
        except msgspec.MsgspecError as error:
            answer.error, answer.detail = "unreadable", f"{error}: {payload[:200]!r}"
            continue
        if event.error:
            answer.error, answer.detail = error_of(event.error)
        if event.usage is not None:
            _bill(answer, event.usage)
        for choice in event.choices[:1]:
            answer.finish = choice.finish_reason or answer.finish
            text = choice.text or (choice.delta.text if choice.delta is not None else "")
            tokens = choice.token_ids or []
            if not text and not tokens:
                continue
            answer.pieces.append(arrived)
            answer.texts.append(text)
            told.append(len(tokens))
            logged.append(_logged(choice.logprobs))
            ids += tokens
    _count(answer, told, logged, ids, tokenize)
    return answer


def prompt_tokens(content: bytes) -> int | None:
    """As a whole response bills them. None where it does not."""
    try:
        usage = _decode(content).usage
    except msgspec.MsgspecError:
        return None
    return None if usage is None else usage.prompt_tokens


def one_line(content: bytes, most: int = 200) -> str:
    """The beginning of whatever a server said, to be shown."""
    return " ".join(content[: 4 * most].decode(errors="replace").split())[:most]


def error_of(error: Any) -> tuple[str, str]:
    """Code and message of an error in OpenAI's form, or in any other."""
    if isinstance(error, dict):
        code = error.get("code") or error.get("type") or "error"
        return str(code), str(error.get("message") or "")
    return "error", str(error)


def _bill(answer: Answer, usage: _Usage) -> None:
    answer.prompt = usage.prompt_tokens or answer.prompt
    if usage.completion_tokens is not None:
        answer.billed = usage.completion_tokens
    if usage.prompt_tokens_details is not None:
        answer.cached = usage.prompt_tokens_details.cached_tokens or 0


def _logged(logprobs: Any) -> int:
    """Tokens of a piece, by its log probabilities."""
    if not isinstance(logprobs, dict):
        return 0
    return len(logprobs.get("tokens") or logprobs.get("content") or ())


def _count(
    answer: Answer, told: list[int], logged: list[int], ids: list[int], tokenize: Tokenize | None
) -> None:
    number = len(answer.pieces)
    if number and all(told):
        answer.counts, answer.ids, answer.counted_by = told, ids, "token ids"
    elif number and all(logged):
        answer.counts, answer.counted_by = logged, "log probabilities"
    elif answer.billed is None and tokenize is None:
        answer.counts, answer.counted_by = [1] * number, "pieces, unchecked"
    elif answer.billed == number:
        answer.counts, answer.counted_by = [1] * number, "pieces"
    elif tokenize is not None and (growth := _growth(answer.texts, tokenize)) is not None:
        answer.counts, answer.counted_by = growth, "tokenizer"
    else:
        answer.counts = _shared(answer.billed or number, [len(text) for text in answer.texts])
        answer.counted_by = "share of text"
    _drop_empty(answer)


def _growth(texts: Sequence[str], tokenize: Tokenize) -> list[int] | None:
    """Tokens that each text adds to all before it. None where the tokenizer takes no such text: it
    may be of another model."""
    totals, whole = [0], ""
    try:
        for text in texts:
            whole += text
            totals.append(max(totals[-1], tokenize(whole)))
    except (TypeError, ValueError, RuntimeError):
        return None
    return [b - a for a, b in pairwise(totals)]


def _shared(total: int, weights: Sequence[int]) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to weights."""
    whole, seen, given, shares = sum(weights), 0, 0, []
    for weight in weights:
        seen += weight
        upto = round(total * seen / whole) if whole else given
        shares.append(upto - given)
        given = upto
    return shares


def _drop_empty(answer: Answer) -> None:
    """A piece without a token is no arrival of one: its text counts with the next."""
    if 0 in answer.counts:
        kept = [(t, c) for t, c in zip(answer.pieces, answer.counts, strict=True) if c]
        answer.pieces = [t for t, _ in kept]
        answer.counts = [c for _, c in kept]

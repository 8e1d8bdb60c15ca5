"""Log-probability entries in the two shapes of the OpenAI API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baton.protocol.records import TokenLogprobs
from baton.router.text.output import Entry
from baton.router.text.tokenizer import Tokenizer


def token_string(tokenizer: Tokenizer, token: int) -> str:
    """The token as text; for part of a character, its bytes as `bytes:\\xe2\\x80`, so that
    different tokens stay different."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def completion_logprobs(
    tokenizer: Tokenizer, entries: Sequence[Entry], num_top: int
) -> dict[str, Any]:
    """`choices[].logprobs` of /v1/completions."""
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    for entry in entries:
        text = token_string(tokenizer, entry.token)
        tokens.append(text)
        if entry.logprobs is None:
            token_logprobs.append(None)
            top_logprobs.append(None)
            continue
        token_logprobs.append(_finite(entry.logprobs.logprob))
        top = {token_string(tokenizer, i): _finite(p) for i, p in entry.logprobs.top[:num_top]}
        # As OpenAI does: the sampled token is among the alternatives, at the end if unlikely.
        top.setdefault(text, _finite(entry.logprobs.logprob))
        top_logprobs.append(top)
    return {
        "tokens": tokens,
        "token_logprobs": token_logprobs,
        "top_logprobs": top_logprobs if num_top else None,
        "text_offset": [entry.offset for entry in entries],
    }


def chat_logprobs(
    tokenizer: Tokenizer, entries: Sequence[Entry], num_top: int
) -> dict[str, Any]:
    """`choices[].logprobs` of /v1/chat/completions."""
    content = []
    for entry in entries:
        if entry.logprobs is None:
            continue
        content.append(
            {
                **_chat_token(tokenizer, entry.token, entry.logprobs.logprob),
                "top_logprobs": [
                    _chat_token(tokenizer, token, logprob)
                    for token, logprob in entry.logprobs.top[:num_top]
                ],
            }
        )
    return {"content": content, "refusal": None}


def prompt_entries(
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    logprobs: Sequence[TokenLogprobs | None],
) -> list[Entry]:
    """Entries of an echoed prompt. `logprobs` has one item per prompt token, or lacks the last
    ones; the first is None."""
    detokenizer = tokenizer.decode_stream()
    entries: list[Entry] = []
    offset = 0
    for i, token in enumerate(prompt):
        entries.append(Entry(logprobs[i] if i < len(logprobs) else None, token, offset))
        offset += len(detokenizer.push((token,)))
    return entries


def _chat_token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    return {
        "token": token_string(tokenizer, token),
        "logprob": _finite(logprob),
        "bytes": list(tokenizer.token_bytes(token)),
    }


def _finite(logprob: float) -> float:
    """JSON has no infinity; a token that was ruled out reads -9999, as in OpenAI's API."""
    return logprob if logprob > -9999.0 else -9999.0

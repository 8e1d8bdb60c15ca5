"""One choice's output: tokens in, text that may be shown out.

Text never splits a character, nothing that may become a stop string is shown, and nothing after a
stop string is shown or counted. A token's log-probability entry travels with its text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from baton.protocol.records import TokenDelta, TokenLogprobs
from baton.router.text.stops import StopMatcher
from baton.router.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Entry:
    """Log-probabilities of one token, with where its text begins, in characters."""

    logprobs: TokenLogprobs | None
    """None for the first token of a prompt."""
    token: int
    offset: int


@dataclass(slots=True)
class Piece:
    """What one delta, or several, added to a choice."""

    text: str = ""
    entries: list[Entry] = field(default_factory=list)
    finish_reason: str | None = None
    token_ids: list[int] = field(default_factory=list)
    """Of the billed tokens, where the client wants them."""

    def add(self, other: Piece) -> None:
        self.text += other.text
        self.entries += other.entries
        self.token_ids += other.token_ids
        self.finish_reason = other.finish_reason or self.finish_reason


class OutputText:
    """See the module. `prompt` is what the output follows; `offset` is where it begins in the
    response's text (after an echoed prompt)."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt: Sequence[int] = (),
        stops: Sequence[str] = (),
        min_tokens: int = 0,
        logprobs: bool = False,
        offset: int = 0,
    ) -> None:
        self._detokenizer = tokenizer.decode_stream(prompt)
        self._matcher = StopMatcher(stops) if stops else None
        self._min_tokens = min_tokens
        self._logprobs = logprobs
        self._decoded = offset
        self._shown = offset
        self._held_entries: deque[Entry] = deque()
        self.num_tokens = 0
        """Tokens to bill: all up to the end, with an end-of-sequence token and the one that
        completed a stop string."""
        self.stopped = False
        """A stop string was found."""

    def feed(self, delta: TokenDelta) -> Piece:
        """Not to be called after a piece with a finish reason."""
        finish = delta.finish_reason
        tokens = delta.tokens
        # With "stop" the last token is the end or stop id, which is no part of the text.
        visible = len(tokens) - 1 if finish == "stop" and tokens else len(tokens)
        if self._matcher is None and not self._logprobs:
            text = self._detokenizer.push(tokens[:visible])
            self.num_tokens += len(tokens)
            if finish is not None:
                text += self._detokenizer.finish()
            return Piece(text, [], finish)
        text = ""
        for i in range(visible):
            self.num_tokens += 1
            if self._logprobs:
                logprobs = delta.logprobs[i] if delta.logprobs else None
                self._held_entries.append(Entry(logprobs, tokens[i], self._decoded))
            new = self._detokenizer.push(tokens[i : i + 1])
            if new:
                text += self._pass(new)
                if self.stopped:
                    return self._piece(text, "stop")
        self.num_tokens += len(tokens) - visible
        if finish is not None:
            rest = self._detokenizer.finish()
            if rest:
                text += self._pass(rest)
            if not self.stopped and self._matcher is not None:
                text += self._matcher.flush()
            finish = "stop" if self.stopped else finish
        return self._piece(text, finish)

    def _pass(self, new: str) -> str:
        """`new` through the stop strings."""
        self._decoded += len(new)
        if self._matcher is None or self.num_tokens <= self._min_tokens:
            return new
        shown = self._matcher.feed(new)
        self.stopped = self._matcher.matched is not None
        return shown

    def _piece(self, text: str, finish: str | None) -> Piece:
        self._shown += len(text)
        entries: list[Entry] = []
        held = self._held_entries
        if held:
            everything = finish is not None and not self.stopped
            while held and (everything or held[0].offset < self._shown):
                entries.append(held.popleft())
        return Piece(text, entries, finish)

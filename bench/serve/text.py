"""Real text in place of token ids: passages of a corpus, chosen by the tokens they stand for.

Equal blocks of tokens become equal passages, so prompts share in text what they share in tokens,
in blocks of BLOCK. How long a passage must be for its tokens the server itself says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from pathlib import Path

from baton.protocol.errors import ConfigError

BLOCK = 64
"""Tokens of a passage."""
_PROBES = ((600, 6000), (80, 400))
"""Characters of two prompts whose tokens are compared; the second pair for short contexts."""
_SLACK = 40
"""Characters that a passage may begin later than chosen, at a word."""
_USUAL = 4.0
"""Characters of a token, where the server does not say."""


def corpus(path: Path | None = None) -> str:
    """The text of a file; without one the language reference that comes with Python, which is
    there offline. Raises ConfigError."""
    if path is None:
        from pydoc_data.topics import topics

        text = " ".join(topics.values())
    else:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    text = " ".join(text.split())
    least = max(map(max, _PROBES))
    if len(text) < least:
        raise ConfigError(f"{path} has {len(text)} characters; prompts need {least} or more")
    return text


class Writer:
    """Packed tokens to text of about as many."""

    def __init__(self, text: str, characters: float = _USUAL, *, guessed: bool = False) -> None:
        """`characters` of a token. Raises ConfigError when the text is too short for a passage."""
        if characters * BLOCK + _SLACK > len(text):
            raise ConfigError(
                f"a token has {characters:.0f} characters by what the server counts: {BLOCK} of "
                f"them are longer than the whole text, which has {len(text):,}; give a longer one "
                "(--text FILE), or token ids"
            )
        self._text, self._characters = text, characters
        self.guessed = guessed
        """The server did not say how many tokens a text has."""

    def __call__(self, packed: bytes) -> str:
        return " ".join(
            self._passage(packed[at : at + 4 * BLOCK]) for at in range(0, len(packed), 4 * BLOCK)
        )

    def _passage(self, block: bytes) -> str:
        length = round(self._characters * len(block) / 4)
        chosen = int.from_bytes(blake2b(block, digest_size=6).digest(), "big")
        start = chosen % max(1, len(self._text) - length - _SLACK)
        start = self._text.find(" ", start) + 1  # at a word
        return self._text[start : start + length].strip() or "and"


async def measured(text: str, tokens_of: Callable[[str], Awaitable[int | None]]) -> Writer:
    """A writer for a server that says how many tokens a prompt has."""
    for few, many in _PROBES:
        short, long = await tokens_of(text[:few]), await tokens_of(text[:many])
        if short and long and long > short:
            return Writer(text, (many - few) / (long - short))
    return Writer(text, guessed=True)

"""Token ids to the bytes they stand for."""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer as Backend

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """Character to byte of byte-level vocabularies: printable Latin-1 stands for itself, the
    other bytes for the characters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(others)}


class Vocabulary:
    """`bytes_of` for every id, computed on first use and kept: at most one entry per token."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._special = {
            index for index, token in backend.get_added_tokens_decoder().items() if token.special
        }
        self._added = {
            index: token.content for index, token in backend.get_added_tokens_decoder().items()
        }
        self.byte_level = _decoder_type(backend) == "ByteLevel"
        """Bytes of tokens can simply be joined."""
        self._alphabet = byte_alphabet()
        self.covers_all_text = self.byte_level and all(
            backend.token_to_id(character) is not None for character in self._alphabet
        )
        """Every byte is a token, so no text is unknown."""
        self._known: dict[int, bytes] = {}
        self._text: dict[int, bytes] = dict.fromkeys(self._special, b"")

    def bytes_of(self, index: int) -> bytes:
        """Special tokens by their names; empty for ids without a token."""
        known = self._known.get(index)
        if known is None:
            known = self._known[index] = self._spell(index)
        return known

    def text_bytes(self, index: int) -> bytes:
        """As `bytes_of`, but empty for special tokens."""
        known = self._text.get(index)
        if known is None:
            known = self._text[index] = self.bytes_of(index)
        return known

    def _spell(self, index: int) -> bytes:
        if index < 0:
            return b""
        if index in self._added:
            return self._added[index].encode()
        token: str | None = self._backend.id_to_token(index)
        if token is None:
            return b""
        if self.byte_level:
            alphabet = self._alphabet
            if all(character in alphabet for character in token):
                return bytes(alphabet[character] for character in token)
            return token.encode()
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace("\u2581", " ").encode()


def _decoder_type(backend: Backend) -> str | None:
    """The decoder's class as tokenizer.json names it; the Python object has no other way."""
    if backend.decoder is None:
        return None
    state: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    if state["type"] == "Sequence" and len(state["decoders"]) == 1:
        state = state["decoders"][0]
    return str(state["type"])

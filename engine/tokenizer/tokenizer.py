"""The tokenizer that router and tools use: text to ids and back, chats to prompts.

Immutable after loading and safe to share between threads. Long texts are encoded without the
interpreter lock, so that a thread that does it stops no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import processors

from baton.engine.model.source import ModelSource
from baton.engine.tokenizer.convert import tokenizer_json
from baton.engine.tokenizer.detokenizer import ByteDetokenizer, Detokenizer, WindowDetokenizer
from baton.engine.tokenizer.settings import TokenizerSettings, read_settings
from baton.engine.tokenizer.template import ChatTemplate
from baton.engine.tokenizer.vocabulary import Vocabulary
from baton.protocol.errors import BatonError, ConfigError

LONG_TEXT = 20_000
"""Characters from which encoding takes milliseconds."""


def load_tokenizer(source: ModelSource) -> Tokenizer:
    """From tokenizer.json where there is one, else from the cache of converted ones.

    Raises ConfigError if the model has none, or it is damaged.
    """
    settings = read_settings(source)
    path = tokenizer_json(source)
    return Tokenizer(_read_backend(path), settings)


class Tokenizer:
    def __init__(self, backend: Backend, settings: TokenizerSettings) -> None:
        self._backend = backend
        self._settings = settings
        if settings.add_bos:
            _ensure_bos(backend, settings.special_tokens.get("bos_token"))
        self._vocabulary = Vocabulary(backend)
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        """Tokens known; the model's embedding may have more rows."""
        self.eos_token_ids: tuple[int, ...] = self._all_eos()
        """Ids that end a text, the main one first."""
        self.chat_template: ChatTemplate | None = None
        if settings.chat_template:
            self.chat_template = ChatTemplate(settings.chat_template, settings.special_tokens)

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Such as {"bos_token": "<s>"}; only those that the model has."""
        return self._settings.special_tokens

    def token_id(self, text: str) -> int | None:
        """The id of the token spelled so in the vocabulary, such as "<|im_end|>"."""
        index: int | None = self._backend.token_to_id(text)
        return index

    # -- text to ids

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Special tokens that are spelled out in `text` become their ids; `add_special_tokens`
        also puts those around it that the model wants (usually bos, or none)."""
        if len(text) >= LONG_TEXT:
            # Megabytes take seconds, and `encode` may keep the interpreter lock all the while: the
            # router's event loop stands still, and its workers give it up for dead.
            return self.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def fewest_tokens(self, text: str) -> int:
        """A lower bound of `len(encode(text))`, at once; 0 where none is known."""
        return len(text) // self._longest_token if self._longest_token else 0

    @cached_property
    def _longest_token(self) -> int:
        """Characters of text that one token can stand for at most; 0 for unknown."""
        if self._backend.normalizer is not None or not self._vocabulary.covers_all_text:
            return 0  # characters may be dropped, or a run of unknown ones be one token
        return max(map(len, self._backend.get_vocab(with_added_tokens=True)))

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        encodings = self._backend.encode_batch_fast(
            list(texts), add_special_tokens=add_special_tokens
        )
        return [encoding.ids for encoding in encodings]

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt of a conversation; see ChatTemplate.render. Raises BatonError also for a
        model without a chat template."""
        if self.chat_template is None:
            raise BatonError(
                "invalid_value",
                "this model has no chat template; use /v1/completions",
                param="messages",
            )
        return self.chat_template.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables
        )

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        """The prompt's ids; options as for `render_chat`."""
        return self.encode(self.render_chat(messages, **options), add_special_tokens=False)

    # -- ids to text

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def decode_stream(
        self, prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> Detokenizer:
        """For the output that follows `prompt_ids` (only the last few are looked at)."""
        if self._vocabulary.byte_level:
            table = self._vocabulary
            bytes_of = table.text_bytes if skip_special_tokens else table.bytes_of
            return ByteDetokenizer(bytes_of, prompt_ids)
        return WindowDetokenizer(
            lambda ids: self.decode(ids, skip_special_tokens=skip_special_tokens), prompt_ids
        )

    def token_bytes(self, token_id: int) -> bytes:
        """What the token stands for, special tokens by their names; empty for ids without a
        token."""
        return self._vocabulary.bytes_of(token_id)

    def token_text(self, token_id: int) -> str:
        """As `token_bytes`; parts of characters show as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def _all_eos(self) -> tuple[int, ...]:
        by_text = [self.token_id(text) for text in self._settings.end_tokens]
        found = [*self._settings.eos_token_ids, *(index for index in by_text if index is not None)]
        return tuple(dict.fromkeys(found))


def _read_backend(path: Path) -> Backend:
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ConfigError(f"{path}: not a readable tokenizer: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _ensure_bos(backend: Backend, bos: str | None) -> None:
    """Some tokenizer.json files leave it to the code around them to add bos."""
    index = None if bos is None else backend.token_to_id(bos)
    if index is None or backend.encode("", add_special_tokens=True).ids[:1] == [index]:
        return
    backend.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], special_tokens=[(bos, index)]
    )

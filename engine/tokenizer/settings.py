"""What surrounds a tokenizer: special tokens, the ids that end a text, the chat template.

Read from the small JSON files of a model directory, or from a GGUF's metadata. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.engine.model.config import token_ids
from baton.engine.model.gguf_file import GGUFFile
from baton.engine.model.source import ModelSource, read_json
from baton.protocol.errors import ConfigError

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>")
"""Tokens that end a turn in known chat templates. A GGUF states a single eos token, which may be
the one that ends a document; where the template writes one of these, it ends an answer as well.
(A directory has generation_config.json for that.)"""


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    special_tokens: Mapping[str, str]
    """By the name templates use: {"bos_token": "<s>", ...}; only those the model has."""
    eos_token_ids: tuple[int, ...]
    """As stated by id, in the order found."""
    end_tokens: tuple[str, ...]
    """As stated by text, where the id is the tokenizer's to say."""
    add_bos: bool | None
    """None: whatever tokenizer.json does."""
    chat_template: str | None


def read_settings(source: ModelSource) -> TokenizerSettings:
    if source.is_gguf:
        return settings_from_gguf(GGUFFile(source.path))
    return settings_from_directory(source.path)


def settings_from_gguf(file: GGUFFile) -> TokenizerSettings:
    prefix = "tokenizer.ggml."
    tokens = file.value(f"{prefix}tokens")
    if not tokens:
        raise ConfigError(f"{file.path}: holds no tokenizer (tokenizer.ggml.tokens)")
    keys = {
        "bos_token": "bos_token_id",
        "eos_token": "eos_token_id",
        "unk_token": "unknown_token_id",
        "pad_token": "padding_token_id",
    }
    stated = {name: file.value(f"{prefix}{key}") for name, key in keys.items()}
    ends = [
        file.value(f"{prefix}{key}") for key in ("eos_token_id", "eot_token_id", "eom_token_id")
    ]
    template = file.value("tokenizer.chat_template")
    return TokenizerSettings(
        special_tokens={
            name: tokens[index]
            for name, index in stated.items()
            if index is not None and index < len(tokens)
        },
        eos_token_ids=_unique(index for index in ends if index is not None),
        end_tokens=_turn_ends(template),
        add_bos=file.value(f"{prefix}add_bos_token"),
        chat_template=template,
    )


def settings_from_directory(directory: Path) -> TokenizerSettings:
    config = _read_optional(directory / "config.json")
    generation = _read_optional(directory / "generation_config.json")
    tokenizer = _read_optional(directory / "tokenizer_config.json")
    specials = _read_optional(directory / "special_tokens_map.json") | tokenizer
    special_tokens = {
        name: text for name in _SPECIAL_NAMES if (text := _token_text(specials.get(name)))
    }
    template = _directory_template(directory, tokenizer)
    eos = special_tokens.get("eos_token")
    return TokenizerSettings(
        special_tokens=special_tokens,
        eos_token_ids=_unique(
            [*token_ids(generation.get("eos_token_id")), *token_ids(config.get("eos_token_id"))]
        ),
        end_tokens=(eos,) if eos else (),
        add_bos=tokenizer.get("add_bos_token"),
        chat_template=template,
    )


def _directory_template(directory: Path, tokenizer: Mapping[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = tokenizer.get("chat_template")
    if template is None:
        template = _read_optional(directory / "chat_template.json").get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default") or next(iter(named.values()), None)
    return template


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _token_text(token: str | Mapping[str, Any] | None) -> str | None:
    """Special tokens are written as text or as {"content": text, ...}."""
    return token["content"] if isinstance(token, Mapping) else token


def _turn_ends(template: str | None) -> tuple[str, ...]:
    return tuple(token for token in _TURN_ENDS if template and token in template)


def _unique(ids: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))

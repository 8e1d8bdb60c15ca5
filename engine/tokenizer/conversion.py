"""The process that converts one tokenizer with transformers: `conversion SOURCE TARGET`.

SOURCE is a .gguf file or a model directory, TARGET the tokenizer.json to write. Run by
`convert.py`, never imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# transformers would import torch just because it is there: seconds, for nothing.
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.modules["torch"] = None  # type: ignore[assignment]

from tokenizers import Tokenizer, pre_tokenizers, processors  # noqa: E402

from baton.engine.model.gguf_file import GGUFFile  # noqa: E402

_DIGIT_BY_DIGIT = (
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "exaone",
    "minerva-7b",
)
"""`tokenizer.ggml.pre` values whose vocabularies were learned with digits split one by one before
GPT-2's rules. transformers' table of splits does not have them."""

_WHOLE_WORDS_FIRST = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken")
"""Vocabularies in which a word that is a token itself is taken whole, whatever the merges say."""


def convert_gguf(file: GGUFFile) -> Tokenizer:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_TOKENIZER_MAPPING,
        convert_gguf_tokenizer,
    )

    fields: dict[str, Any] = {
        name: value
        for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items()
        if (value := file.value(f"tokenizer.{key}")) is not None
    }
    tokenizer, _ = convert_gguf_tokenizer(file.architecture, fields)
    pre = fields.get("pre_tokenizer_type")
    if pre in _DIGIT_BY_DIGIT:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if pre in _WHOLE_WORDS_FIRST:
        tokenizer.model.ignore_merges = True
    return _with_edge_tokens(tokenizer, file, fields)


def _with_edge_tokens(tokenizer: Tokenizer, file: GGUFFile, fields: dict[str, Any]) -> Tokenizer:
    """Add bos and eos around a text as the file, or else llama.cpp's default for its kind, says."""
    kind, pre = fields.get("tokenizer_type"), fields.get("pre_tokenizer_type")
    add_bos = file.value(
        "tokenizer.ggml.add_bos_token",
        kind == "llama" or pre in ("llama3", "llama-v3", "llama-bpe"),
    )
    add_eos = file.value("tokenizer.ggml.add_eos_token", False)
    before = _edge(fields, "bos_token_id") if add_bos else []
    after = _edge(fields, "eos_token_id") if add_eos else []
    template = [token for token, _ in before] + ["$A"] + [token for token, _ in after]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=before + after
    )
    return tokenizer


def _edge(fields: dict[str, Any], key: str) -> list[tuple[str, int]]:
    index = fields.get(key)
    return [] if index is None else [(fields["tokens"][index], index)]


def convert_directory(directory: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    tokenizer: Tokenizer | None = getattr(loaded, "backend_tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"{type(loaded).__name__} has no fast form")
    return tokenizer


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    converted = convert_directory(source) if source.is_dir() else convert_gguf(GGUFFile(source))
    converted.save(str(target), pretty=False)

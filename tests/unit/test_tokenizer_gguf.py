"""GGUF vocabularies of each kind become the tokenizer that they describe."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from tiny_model import CHAT_TEMPLATE, make_tiny_model

from baton.engine.model.source import resolve_model
from baton.engine.tokenizer import Tokenizer, load_tokenizer

TEXT = "The capital of France is Paris. 2024 🙂"
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(path: Path, add: object) -> Tokenizer:
    """A file with the sizes that a model needs and the tokenizer that `add` writes."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_block_count(1)
    writer.add_head_count(2)
    assert callable(add)
    add(writer)
    writer.add_tensor("token_embd.weight", np.zeros((600, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return load_tokenizer(resolve_model(str(path)))


def byte_level(directory: Path, pre: str, add_bos: bool | None) -> object:
    model = json.loads((directory / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([CONTROL] * 3 + [NORMAL] * (len(tokens) - 3))
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
        writer.add_chat_template(CHAT_TEMPLATE)
        if add_bos is not None:
            writer.add_add_bos_token(add_bos)

    return add


def test_byte_level(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "tiny")
    expected = load_tokenizer(resolve_model(str(directory)))
    tokenizer = load(tmp_path / "a.gguf", byte_level(directory, "gpt-2", None))
    assert tokenizer.encode(TEXT) == expected.encode(TEXT)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.encode("<|im_start|>a<|im_end|>")[::2] == [1, 2]
    # The file says 0; the template ends turns with 2.
    assert tokenizer.eos_token_ids == (0, 2)
    assert tokenizer.render_chat([{"role": "user", "content": "x"}]).startswith("<|im_start|>user")


@pytest.mark.parametrize(
    ("pre", "add_bos", "expected"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", True, True)],
)
def test_bos_as_stated_or_as_llama_cpp_assumes(
    tmp_path: Path, pre: str, add_bos: bool | None, expected: bool
) -> None:
    directory = make_tiny_model(tmp_path / "tiny")
    tokenizer = load(tmp_path / "a.gguf", byte_level(directory, pre, add_bos))
    ids = tokenizer.encode(TEXT)
    assert (ids[0] == 0) == expected
    assert tokenizer.encode(TEXT, add_special_tokens=False) == (ids[1:] if expected else ids)
    assert tokenizer.decode(ids) == TEXT


def test_sentencepiece(tmp_path: Path) -> None:
    letters = sorted(set("helowrd"))
    words = ["\u2581", *letters, "he", "ll", "hell", "hello", "\u2581hello", "\u2581w", "or", "ld"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(words)
    scores = [0.0] * 259 + [-float(place) for place in range(len(words))]

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        writer.add_token_scores(scores)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    tokenizer = load(tmp_path / "a.gguf", add)
    ids = tokenizer.encode("hello world")
    assert ids[0] == 1
    assert [tokenizer.token_text(index) for index in ids[1:]] == [" hello", " w", "or", "ld"]
    assert tokenizer.decode(ids) == "hello world"
    assert tokenizer.eos_token_ids == (2,)
    emoji = tokenizer.encode("🙂", add_special_tokens=False)
    stream = tokenizer.decode_stream(tokenizer.encode("hello"))
    assert "".join([*(stream.push([index]) for index in emoji), stream.finish()]) == " 🙂"

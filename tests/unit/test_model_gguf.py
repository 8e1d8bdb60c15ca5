"""The fast GGUF reader agrees with the library's, and small files of every kind are read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from baton.engine.model.gguf_config import config_from_gguf
from baton.engine.model.gguf_file import GGUFFile
from baton.engine.model.source import resolve_model
from baton.protocol.errors import ConfigError


def write_gguf(
    path: Path, arch: str = "llama", *, tensors: dict[str, Any] | None = None, **metadata: Any
) -> GGUFFile:
    """A two-layer header with the smallest tensors that a configuration needs."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["<s>", "</s>", "a", "ü"])
    writer.add_token_scores([0.0, 0.5, 1.0, 1.5])
    for key, value in metadata.items():
        name = key.replace("__", ".")
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)
    default = {"token_embd.weight": np.zeros((4, 64), np.float32)}
    for name, values in (default | (tensors or {})).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GGUFFile(path)


def test_a_small_file_equals_the_librarys_reading(tmp_path: Path) -> None:
    ours = write_gguf(tmp_path / "small.gguf", general__name="small")
    theirs = gguf.GGUFReader(tmp_path / "small.gguf")
    _assert_same(ours, theirs)


def test_the_embedded_model_equals_the_librarys_reading() -> None:
    path = resolve_model(None).path
    elapsed = []
    for _ in range(3):  # a collection of garbage may fall into one of them
        started = time.thread_time()
        ours = GGUFFile(path)
        elapsed.append(time.thread_time() - started)
    started = time.thread_time()
    theirs = gguf.GGUFReader(path)
    assert 10 * min(elapsed) < time.thread_time() - started, "it takes a hundredth of the time"
    _assert_same(ours, theirs)


def _assert_same(ours: GGUFFile, theirs: gguf.GGUFReader) -> None:
    assert list(ours.fields) == list(theirs.fields)
    for key, field in theirs.fields.items():
        assert ours.value(key) == field.contents(), key
    assert ours.data_offset == theirs.data_offset
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert (mine.name, mine.tensor_type, mine.n_bytes, mine.data_offset) == (
            other.name,
            other.tensor_type,
            other.n_bytes,
            other.data_offset,
        )
        assert mine.data.shape == other.data.shape
        assert np.array_equal(mine.data.reshape(-1)[:64], other.data.reshape(-1)[:64])


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("llama", "LlamaForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
        ("mistral", "MistralForCausalLM"),
    ],
)
def test_architectures(tmp_path: Path, arch: str, name: str) -> None:
    config = config_from_gguf(write_gguf(tmp_path / "a.gguf", arch))
    assert config.architecture == name
    assert (config.hidden_size, config.intermediate_size, config.num_layers) == (64, 128, 2)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 16)
    assert (config.vocab_size, config.max_position) == (4, 256)
    assert config.tie_word_embeddings
    assert config.qk_norm == (arch == "qwen3")
    assert config.sliding_window is None


def test_what_the_file_holds_decides(tmp_path: Path) -> None:
    tensors = {
        "blk.0.attn_q.bias": np.zeros(64, np.float32),
        "output.weight": np.zeros((4, 64), np.float16),
    }
    config = config_from_gguf(
        write_gguf(
            tmp_path / "a.gguf",
            "qwen2",
            tensors=tensors,
            qwen2__attention__key_length=32,
            qwen2__rope__dimension_count=32,
            qwen2__rope__freq_base=1e6,
        )
    )
    assert (config.attention_bias, config.attention_output_bias) == (True, False)
    assert not config.tie_word_embeddings
    assert config.head_dim == 32
    assert config.rope_theta == 1e6


def test_llama3_rope_is_recovered_from_its_divisors(tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    theirs = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=131072,
        rope_parameters=dict(scaling),
    )
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, "cpu")
    plain = 500000.0 ** -(np.arange(0, 64, 2) / 64)
    divisors = (plain / stretched.numpy()).astype(np.float32)
    file = write_gguf(
        tmp_path / "a.gguf",
        tensors={"rope_freqs.weight": divisors},
        llama__rope__freq_base=500000.0,
        llama__attention__key_length=64,
        llama__rope__dimension_count=64,
    )
    found = config_from_gguf(file).rope_scaling
    assert found is not None
    assert (found.kind, found.low_freq_factor, found.high_freq_factor) == ("llama3", 1.0, 4.0)
    assert found.factor == pytest.approx(32.0, rel=1e-4)
    assert found.original_max_position == 8192

    odd = write_gguf(
        tmp_path / "b.gguf",
        tensors={"rope_freqs.weight": divisors[::-1].copy()},
        llama__attention__key_length=64,
        llama__rope__dimension_count=64,
    )
    with pytest.raises(ConfigError, match=r"rope_freqs\.weight"):
        config_from_gguf(odd)


def test_linear_and_yarn_rope(tmp_path: Path) -> None:
    linear = config_from_gguf(
        write_gguf(
            tmp_path / "a.gguf",
            llama__rope__scaling__type="linear",
            llama__rope__scaling__factor=2.0,
        )
    )
    assert linear.rope_scaling is not None
    assert (linear.rope_scaling.kind, linear.rope_scaling.factor) == ("linear", 2.0)
    yarn = config_from_gguf(
        write_gguf(
            tmp_path / "b.gguf",
            llama__rope__scaling__type="yarn",
            llama__rope__scaling__factor=4.0,
            llama__rope__scaling__original_context_length=64,
        )
    )
    assert yarn.rope_scaling is not None
    assert yarn.rope_scaling.original_max_position == 64
    assert yarn.max_position == 256


@pytest.mark.parametrize(
    ("arch", "metadata", "words"),
    [
        ("gemma", {}, "unknown architecture 'gemma'; known: llama"),
        ("llama", {"llama__expert_count": 8}, "mixture-of-experts"),
        ("llama", {"llama__rope__dimension_count": 8}, "partial_rotary_factor"),
    ],
)
def test_refused(tmp_path: Path, arch: str, metadata: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_from_gguf(write_gguf(tmp_path / "a.gguf", arch, **metadata))


def test_a_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of 3 parts"):
        write_gguf(tmp_path / "a.gguf", split__count=3)

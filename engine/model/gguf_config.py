"""The shape of a model from a GGUF file's metadata, by way of config.json's keys. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from baton.engine.model.config import ModelConfig, config_from_hf
from baton.engine.model.gguf_file import GGUFFile
from baton.protocol.errors import ConfigError

GGUF_ARCHITECTURES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""`general.architecture` to Hugging Face class. Mistral's files usually say "llama", which computes
the same as long as no sliding window is stated."""

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config_from_gguf(file: GGUFFile) -> ModelConfig:
    """Raises ConfigError for an architecture that is not known, missing sizes, experts."""
    arch, where = file.architecture, str(file.path)
    if arch not in GGUF_ARCHITECTURES:
        raise ConfigError(
            f"{where}: unknown architecture {arch!r}; known: "
            f"{', '.join(sorted(GGUF_ARCHITECTURES))}"
        )
    if file.value(f"{arch}.expert_count", 0):
        raise ConfigError(f"{where}: mixture-of-experts models are not supported")
    if not file.has("token_embd.weight"):
        raise ConfigError(f"{where}: holds no token_embd.weight, so it is not a whole model")

    def key(name: str, default: Any = None) -> Any:
        return file.value(f"{arch}.{name}", default)

    hidden, heads = key("embedding_length"), key("attention.head_count")
    for name, value in (("embedding_length", hidden), ("attention.head_count", heads)):
        if not isinstance(value, int):
            raise ConfigError(f"{where}: {arch}.{name} is missing or differs between layers")
    head_dim = key("attention.key_length", hidden // heads)
    rotated = key("rope.dimension_count", head_dim)
    raw: dict[str, Any] = {
        "architectures": [GGUF_ARCHITECTURES[arch]],
        "vocab_size": next(
            int(tensor.shape[1]) for tensor in file.tensors if tensor.name == "token_embd.weight"
        ),
        "hidden_size": hidden,
        "intermediate_size": key("feed_forward_length"),
        "num_hidden_layers": key("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": key("attention.head_count_kv"),
        "head_dim": head_dim,
        "rms_norm_eps": key("attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": key("rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(file, arch, rotated),
        "partial_rotary_factor": rotated / head_dim,
        "max_position_embeddings": key("context_length"),
        "sliding_window": key("attention.sliding_window"),
        "tie_word_embeddings": not file.has("output.weight"),
        "bos_token_id": file.value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.value("tokenizer.ggml.eos_token_id"),
        "dtype": _dtype(file),
    }
    # What the file holds decides about biases, whatever the class would assume.
    return replace(
        config_from_hf(raw, where=where),
        attention_bias=file.has("blk.0.attn_q.bias"),
        attention_output_bias=file.has("blk.0.attn_output.bias"),
        mlp_bias=file.has("blk.0.ffn_up.bias"),
    )


def _rope_scaling(file: GGUFFile, arch: str, dimensions: int) -> dict[str, Any] | None:
    if file.has("rope_freqs.weight"):
        return _llama3_scaling(file, arch, dimensions)
    kind = file.value(f"{arch}.rope.scaling.type", "none")
    factor = file.value(f"{arch}.rope.scaling.factor", file.value(f"{arch}.rope.scale_linear"))
    if kind == "none" and factor in (None, 0.0, 1.0):
        return None
    scaling = {
        "rope_type": "linear" if kind == "none" else kind,
        "factor": factor,
        "original_max_position_embeddings": file.value(
            f"{arch}.rope.scaling.original_context_length"
        ),
    }
    attention = file.value(f"{arch}.rope.scaling.attn_factor")
    if kind == "yarn" and attention is not None:
        scaling["attention_factor"] = attention * (0.1 * math.log(factor) + 1.0)
    return scaling


def _llama3_scaling(file: GGUFFile, arch: str, dimensions: int) -> dict[str, Any]:
    """Llama 3's stretch is stored as one divisor per frequency, not as its parameters. All
    published models use the same three; they are taken if they give back the stored divisors."""
    stored = next(t.data for t in file.tensors if t.name == "rope_freqs.weight").astype(np.float64)
    theta = file.value(f"{arch}.rope.freq_base", 10000.0)
    low, high = _LLAMA3_ROPE["low_freq_factor"], _LLAMA3_ROPE["high_freq_factor"]
    original, factor = _LLAMA3_ROPE["original_max_position_embeddings"], float(stored.max())
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert isinstance(original, int)
    wavelength = 2 * math.pi * theta ** (np.arange(0, dimensions, 2) / dimensions)
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    expected = 1.0 / ((1.0 - smooth) / factor + smooth)
    if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=1e-3):
        raise ConfigError(
            f"{file.path}: rope_freqs.weight is not the stretch of Llama 3, the only one known"
        )
    return _LLAMA3_ROPE | {"factor": factor}


def _dtype(file: GGUFFile) -> str:
    """The dtype of most of the weights; float32 for quantised ones, which become that."""
    elements: Counter[str] = Counter()
    for tensor in file.tensors:
        elements[tensor.tensor_type.name] += tensor.n_elements
    return {"F16": "float16", "BF16": "bfloat16"}.get(elements.most_common(1)[0][0], "float32")

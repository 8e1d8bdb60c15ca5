"""ModelConfig says what transformers would say, with every default filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_tiny_model

from baton.engine.model.config import ARCHITECTURES, config_from_hf
from baton.protocol.errors import ConfigError

SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def raw(architecture: str = "LlamaForCausalLM", **changes: Any) -> dict[str, Any]:
    return SIZES | {"architectures": [architecture]} | changes


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_defaults_are_those_of_transformers(architecture: str) -> None:
    from transformers import AutoConfig

    model_type = ARCHITECTURES[architecture].model_type
    sizes = SIZES | {"num_attention_heads": 32, "hidden_size": 256}
    theirs = AutoConfig.for_model(model_type, **sizes)
    ours = config_from_hf(sizes | {"architectures": [architecture]})
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == getattr(theirs, "head_dim", 256 // 32)
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.max_position == theirs.max_position_embeddings
    assert ours.sliding_window == getattr(theirs, "sliding_window", None)
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_model_type_alone_is_enough(architecture: str) -> None:
    model_type = ARCHITECTURES[architecture].model_type
    config = config_from_hf(
        raw(num_key_value_heads=2) | {"architectures": None, "model_type": model_type}
    )
    assert config.architecture == architecture


def test_biases_and_norms_by_family() -> None:
    def flags(architecture: str, **changes: Any) -> tuple[bool, ...]:
        config = config_from_hf(raw(architecture, num_key_value_heads=2, **changes))
        return (
            config.attention_bias,
            config.attention_output_bias,
            config.mlp_bias,
            config.qk_norm,
        )

    assert flags("LlamaForCausalLM") == (False, False, False, False)
    assert flags("LlamaForCausalLM", attention_bias=True, mlp_bias=True) == (
        True,
        True,
        True,
        False,
    )
    assert flags("Qwen2ForCausalLM") == (True, False, False, False)
    assert flags("Qwen3ForCausalLM") == (False, False, False, True)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_llama3_rope_in_both_spellings(key: str) -> None:
    rope = LLAMA3_ROPE | ({"rope_theta": 500000.0} if key == "rope_parameters" else {})
    config = config_from_hf(raw(max_position_embeddings=131072, rope_theta=500000.0) | {key: rope})
    assert config.rope_theta == 500000.0
    assert config.max_position == 131072
    assert config.rope_scaling is not None
    assert config.rope_scaling.kind == "llama3"
    assert config.rope_scaling.factor == 8.0
    assert config.rope_scaling.original_max_position == 8192
    assert (config.rope_scaling.low_freq_factor, config.rope_scaling.high_freq_factor) == (1, 4)


def test_yarn_stretches_the_context() -> None:
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = config_from_hf(raw(max_position_embeddings=32768, rope_scaling=rope))
    assert config.max_position == 131072
    already = config_from_hf(raw(max_position_embeddings=131072, rope_scaling=rope))
    assert already.max_position == 131072


def test_sliding_windows() -> None:
    mistral = config_from_hf(raw("MistralForCausalLM", num_key_value_heads=2, sliding_window=32))
    assert mistral.sliding_window == 32
    assert mistral.sliding_layers == (True,) * 4
    none = config_from_hf(raw("MistralForCausalLM", num_key_value_heads=2, sliding_window=None))
    assert (none.sliding_window, none.sliding_layers) == (None, None)
    off = config_from_hf(raw("Qwen2ForCausalLM", num_key_value_heads=2, sliding_window=32))
    assert (off.sliding_window, off.sliding_layers) == (None, None)
    on = raw("Qwen2ForCausalLM", num_key_value_heads=2, sliding_window=32, use_sliding_window=True)
    assert config_from_hf(on | {"max_window_layers": 3}).sliding_layers == (
        False,
        False,
        False,
        True,
    )
    kinds = ["full_attention", "sliding_attention"] * 2
    assert config_from_hf(on | {"layer_types": kinds}).sliding_layers == (False, True, False, True)


def test_stop_ids_and_dtype() -> None:
    assert config_from_hf(raw(eos_token_id=7)).eos_token_ids == (7,)
    assert config_from_hf(raw(eos_token_id=[7, 9])).eos_token_ids == (7, 9)
    assert config_from_hf(raw()).eos_token_ids == ()
    assert config_from_hf(raw(torch_dtype="bfloat16")).torch_dtype == "bfloat16"
    assert config_from_hf(raw(dtype="float16")).torch_dtype == "float16"
    assert config_from_hf(raw()).torch_dtype == "float32"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, ["GPT2LMHeadModel", "LlamaForCausalLM"]),
        ({"architectures": None}, ["unknown architecture"]),
        ({"hidden_size": None}, ["hidden_size", "missing"]),
        ({"hidden_size": "big"}, ["hidden_size", "big"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads", "3"]),
        ({"quantization_config": {"quant_method": "awq"}}, ["awq"]),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, ["dynamic", "yarn"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, ["low_freq_factor"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        ({"hidden_act": "gelu"}, ["gelu", "silu"]),
    ],
)
def test_what_cannot_be_served_is_named_in_one_line(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_hf(raw(**changes), where="some/config.json")
    message = str(caught.value)
    assert message.startswith("some/config.json: ")
    assert "\n" not in message
    assert all(word in message for word in words)


def test_tiny_model_is_reproducible(tmp_path: Path) -> None:
    first = make_tiny_model(tmp_path / "a")
    second = make_tiny_model(tmp_path / "b")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    config = config_from_hf(json.loads((first / "config.json").read_text()))
    assert (config.num_layers, config.head_dim, config.max_position) == (2, 16, 512)

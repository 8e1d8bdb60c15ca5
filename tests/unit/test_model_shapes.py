"""Shapes of models: known names, configs of all kinds, and what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baton.bench.planning.models import model_shape, shape_from_config
from baton.protocol.errors import ConfigError

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "torch_dtype": "bfloat16",
}


def test_parameters_are_those_of_the_model_cards() -> None:
    billions = {
        "meta-llama/Llama-3.1-8B": 8.03, "meta-llama/Llama-3.1-70B": 70.6,
        "Qwen/Qwen3-32B": 32.8, "facebook/opt-13b": 12.9,
        "mistralai/Mixtral-8x7B-Instruct-v0.1": 46.7, "Qwen/Qwen3-30B-A3B": 30.5,
        "HuggingFaceTB/SmolLM2-135M-Instruct": 0.1345, "bigscience/bloom-176b": 176.2,
    }
    for name, wanted in billions.items():
        assert model_shape(name).parameters / 1e9 == pytest.approx(wanted, rel=0.005), name


def test_what_a_token_meets_of_a_mixture_is_its_active_experts() -> None:
    mixtral = model_shape("mixtral-8x7b")
    assert mixtral.layer_parameters / 1e9 == pytest.approx(12.6, rel=0.01)
    assert mixtral.parameters > 3 * mixtral.layer_parameters


def test_a_name_says_how_weights_are_stored() -> None:
    stored = model_shape("nvidia/Llama-3.1-8B-Instruct-FP8")
    assert (stored.name, stored.dtype) == ("llama-3.1-8b", "fp8")
    assert model_shape("meta-llama/Llama-3.1-8B-Instruct").dtype == "bfloat16"
    assert model_shape("meta-llama/Llama-3.1-8B-Instruct", "fp8") == stored
    # Embeddings stay in 16 bits.
    assert stored.weight_bytes == stored.layer_parameters + 2 * 2 * stored.head_parameters


def test_a_directory_needs_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    shape = model_shape(str(tmp_path))
    assert (shape.layers, shape.hidden, shape.kv_heads, shape.head_dim) == (2, 64, 2, 16)
    # q and o: 64 x 64, k and v: 64 x 32; three matrices of 64 x 128.
    assert shape.layer_parameters == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    assert shape.parameters == shape.layer_parameters + 2 * 100 * 64
    assert shape.layout(16).block_bytes == 2 * 2 * 2 * 16 * 16 * 2
    assert model_shape(str(tmp_path / "config.json")).layers == 2


def test_a_mixture_is_read_from_its_config() -> None:
    shape = shape_from_config(
        LLAMA | {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                 "n_shared_experts": 1}, "moe")
    assert (shape.experts, shape.active_experts, shape.intermediate) == (16, 3, 32)


def test_an_opt_has_two_matrices_and_no_grouped_heads() -> None:
    config = {"model_type": "opt", "hidden_size": 64, "ffn_dim": 256, "num_hidden_layers": 2,
              "num_attention_heads": 4, "vocab_size": 100, "torch_dtype": "float16"}
    shape = shape_from_config(config, "opt")
    assert (shape.intermediate, shape.kv_heads, shape.gated, shape.tied) == (256, 4, False, True)
    assert shape.dtype == "float16"


@pytest.mark.parametrize(("quantised", "dtype"), [
    ({"quant_method": "fp8"}, "fp8"),
    ({"quant_method": "compressed-tensors", "bits": 8}, "int8"),
    ({"quant_method": "awq"}, "int4"),
    ({"quant_method": "gptq", "bits": 8}, "int8"),
])
def test_quantised_weights(quantised: dict[str, Any], dtype: str) -> None:
    assert shape_from_config(LLAMA | {"quantization_config": quantised}, "q").dtype == dtype


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        shape_from_config({"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9}, "x")
    with pytest.raises(ConfigError, match=r"no name that is known.*llama-3\.1-8b"):
        model_shape("nosuchthing")
    with pytest.raises(ConfigError, match="no dtype of weights"):
        model_shape("llama-3.1-8b", "int3")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        model_shape(str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to it")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ConfigError, match=r"nobody/nothing: .*no route to it.*one of: .*opt-13b"):
        model_shape("nobody/nothing")


def test_the_embedded_model_is_read_from_its_file() -> None:
    assert model_shape(None).parameters / 1e6 == pytest.approx(134.5, rel=0.01)

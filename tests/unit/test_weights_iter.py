"""Weights arrive under Hugging Face's names, complete, exact, and one at a time."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_model import MODEL_TYPES, make_tiny_model

from baton.engine.model.gguf_file import GGUFFile
from baton.engine.model.source import resolve_model
from baton.engine.weights import iter_weights
from baton.engine.weights.gguf import dequantize, hf_name, unpermute
from baton.protocol.errors import ConfigError


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_safetensors(tmp_path: Path, dtype: str, shards: int) -> None:
    directory = make_tiny_model(tmp_path / "tiny", dtype=dtype, shards=shards)
    source = resolve_model(str(directory))
    expected = {}
    for file in source.weight_files:
        expected |= load_file(file)
    seen = dict(iter_weights(source))
    assert seen.keys() == expected.keys()
    assert len(list(iter_weights(source))) == len(expected)
    for name, tensor in seen.items():
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("architecture", sorted(MODEL_TYPES))
def test_the_names_are_those_of_transformers(tmp_path: Path, architecture: str) -> None:
    from transformers import AutoModelForCausalLM

    directory = make_tiny_model(tmp_path / "tiny", architecture=architecture)
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict()
    ours = dict(iter_weights(resolve_model(str(directory))))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_gguf_dequantises_as_the_library_does() -> None:
    source = resolve_model(None)
    file = GGUFFile(source.path)
    kinds = {tensor.tensor_type: tensor for tensor in file.tensors if "attn_k" in tensor.name}
    kinds |= {tensor.tensor_type: tensor for tensor in file.tensors if "norm" in tensor.name}
    assert {kind.name for kind in kinds} == {"Q4_1", "F32"}
    for kind, tensor in kinds.items():
        assert np.array_equal(dequantize(tensor), gguf.dequantize(tensor.data, kind))


def test_gguf_names_shapes_and_dtype() -> None:
    source = resolve_model(None)
    shapes = {}
    for name, tensor in iter_weights(source):
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert name not in shapes
        shapes[name] = tuple(tensor.shape)
    assert len(shapes) == 30 * 9 + 2
    assert shapes["model.embed_tokens.weight"] == (49152, 576)
    assert shapes["model.norm.weight"] == (576,)
    assert shapes["model.layers.29.self_attn.k_proj.weight"] == (192, 576)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (576, 1536)


def test_gguf_tensors_are_those_that_transformers_loads() -> None:
    """Transformers' own names and row order for the same file; q and k show whether the rows of
    llama.cpp's rotary order were put back. Of the first two layers, for transformers goes through
    the names of all layers for each; its slow reading of the header is left out too."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        get_gguf_hf_weights_map,
    )

    source = resolve_model(None)
    sizes = {"num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 2}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(hidden_size=576, vocab_size=49152, **sizes))
    processor = TENSOR_PROCESSORS["llama"](config=sizes)
    names = get_gguf_hf_weights_map(model, processor)
    assert {f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1)} <= set(names.values())
    theirs = {}
    for tensor in GGUFFile(source.path).tensors:
        if tensor.name in names:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            theirs[names[tensor.name]] = processor.process(weights=values, name=tensor.name).weights
    assert len(theirs) == 2 * 9 + 2
    compared = set()
    for name, values in iter_weights(source):
        if name in theirs:
            assert np.array_equal(values.numpy(), theirs[name]), name
            compared.add(name)
    assert compared == theirs.keys()


def test_unpermute_inverts_llama_cpp() -> None:
    heads, head_dim, columns = 3, 8, 5
    rows = np.arange(heads * head_dim * columns, dtype=np.float32).reshape(-1, columns)
    permuted = (  # as llama.cpp's converter writes it
        rows.reshape(heads, 2, head_dim // 2, columns).swapaxes(1, 2).reshape(rows.shape)
    )
    assert not np.array_equal(permuted, rows)
    assert np.array_equal(unpermute(permuted, heads), rows)
    bias = np.arange(heads * head_dim, dtype=np.float32)
    permuted_bias = bias.reshape(heads, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)
    assert np.array_equal(unpermute(permuted_bias, heads), bias)


def test_gguf_names() -> None:
    assert hf_name("token_embd.weight") == "model.embed_tokens.weight"
    assert hf_name("output.weight") == "lm_head.weight"
    assert hf_name("blk.12.attn_q.bias") == "model.layers.12.self_attn.q_proj.bias"
    assert hf_name("blk.1.attn_k_norm.weight") == "model.layers.1.self_attn.k_norm.weight"
    assert hf_name("blk.1.ssm_a.weight") is None
    assert hf_name("something.weight") is None


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_a_gguf_written_as_llama_cpp_does_gives_back_the_model(tmp_path: Path, arch: str) -> None:
    architecture = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[arch]
    directory = make_tiny_model(tmp_path / "tiny", architecture=architecture)
    expected = dict(iter_weights(resolve_model(str(directory))))
    path = tmp_path / "tiny.gguf"
    _write_gguf(path, arch, expected)
    source = resolve_model(str(path))
    assert (source.kind, source.name) == ("gguf", "tiny")
    seen = dict(iter_weights(source))
    assert seen.keys() == expected.keys()
    assert all(torch.equal(seen[name], expected[name]) for name in seen)


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "tiny")
    weights = dict(iter_weights(resolve_model(str(directory))))
    path = tmp_path / "odd.gguf"
    _write_gguf(path, "llama", weights, extra={"blk.0.ssm_a.weight": np.zeros(4, np.float32)})
    with pytest.raises(ConfigError, match=r"blk\.0\.ssm_a\.weight has no place"):
        list(iter_weights(resolve_model(str(path))))


def _write_gguf(
    path: Path,
    arch: str,
    weights: dict[str, torch.Tensor],
    extra: dict[str, np.ndarray] | None = None,
) -> None:
    heads = {"attn_q": 4, "attn_k": 2}
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    names = {hf_name(name): name for name in _gguf_names()}
    for name, tensor in weights.items():
        stored, values = names[name], tensor.numpy()
        part = stored.split(".")[2] if stored.startswith("blk.") else ""
        if arch == "llama" and part in heads:
            split = values.reshape(heads[part], 2, -1, *values.shape[1:])
            values = np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)
        writer.add_tensor(stored, values)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_names() -> list[str]:
    parts = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
    parts += ("attn_q_norm", "attn_k_norm", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    layers = [
        f"blk.{layer}.{part}.{kind}"
        for layer in range(2)
        for part in parts
        for kind in ("weight", "bias")
    ]
    return ["token_embd.weight", "output_norm.weight", "output.weight", *layers]

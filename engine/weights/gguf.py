"""Tensors of a GGUF file, dequantised, under Hugging Face's names and in its row order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch

from baton.engine.model.gguf_file import GGUFFile
from baton.protocol.errors import ConfigError

_OUTSIDE_LAYERS: Mapping[str, str] = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}

_IN_LAYER: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_IGNORED = ("rope_freqs.weight",)
"""Derived values: the rotary frequencies come from the configuration."""

_PERMUTED_ARCHITECTURES = ("llama",)
_ROWS_AT_ONCE = 256
"""Enough to make numpy's calls cheap, few enough to stay in the processor's cache."""

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def iter_gguf(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    file = GGUFFile(path)
    arch = file.architecture
    heads = {
        "attn_q": file.value(f"{arch}.attention.head_count"),
        "attn_k": file.value(f"{arch}.attention.head_count_kv")
        or file.value(f"{arch}.attention.head_count"),
    }
    for tensor in file.tensors:
        if tensor.name in _IGNORED:
            continue
        name = hf_name(tensor.name)
        if name is None:
            raise ConfigError(f"{path}: tensor {tensor.name} has no place in architecture {arch!r}")
        try:
            values = dequantize(tensor)
        except NotImplementedError as error:
            raise ConfigError(
                f"{path}: tensor {tensor.name}: quantisation {tensor.tensor_type.name} is not "
                "supported"
            ) from error
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if arch in _PERMUTED_ARCHITECTURES and part in heads:
            values = unpermute(values, heads[part])
        yield name, torch.from_numpy(values)


def hf_name(name: str) -> str | None:
    """None for a tensor that these architectures do not have."""
    if name in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[name]
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _IN_LAYER:
        return None
    return f"model.layers.{match[1]}.{_IN_LAYER[match[2]]}.{match[3]}"


def dequantize(tensor: gguf.ReaderTensor) -> npt.NDArray[np.float32]:
    """float32, torch's axis order, writable and owned by the caller."""
    kind = getattr(gguf.quants, tensor.tensor_type.name, None)
    if kind is not None and tensor.data.ndim == 2:
        return _dequantize_rows(tensor.data, kind.dequantize_rows)
    values: npt.NDArray[Any] = gguf.dequantize(tensor.data, tensor.tensor_type)
    return np.array(values, dtype=np.float32, copy=None if values.flags.writeable else True)


def _dequantize_rows(
    data: npt.NDArray[Any], rows: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    """What `gguf.dequantize` does, which takes 16 rows at a time and is half as fast."""
    first = rows(data[:_ROWS_AT_ONCE])
    values = np.empty((data.shape[0], first.shape[1]), dtype=np.float32)
    values[:_ROWS_AT_ONCE] = first
    for start in range(_ROWS_AT_ONCE, data.shape[0], _ROWS_AT_ONCE):
        values[start : start + _ROWS_AT_ONCE] = rows(data[start : start + _ROWS_AT_ONCE])
    return values


def unpermute(values: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undo what llama.cpp does to the rows of q and k.

    Its rotation turns pairs of neighbouring rows, Hugging Face's turns row i of a head with row
    i + head_dim / 2; so the file holds the rows of each head interleaved.
    """
    half = values.shape[0] // heads // 2
    split = values.reshape(heads, half, 2, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)

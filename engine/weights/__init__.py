"""Weights under their Hugging Face names, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from baton.engine.model.source import ModelSource
from baton.engine.weights.gguf import iter_gguf
from baton.engine.weights.safetensors import iter_safetensors

__all__ = ["iter_weights"]


def iter_weights(source: ModelSource) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) for every weight, e.g. "model.layers.0.self_attn.q_proj.weight".

    Safetensors: views of the mapped file in the stored dtype; copy what you keep, for the mapping
    lives as long as its last view. GGUF: float32, dequantised one tensor at a time, rows in
    Hugging Face's order. At no time is a second copy of the model in memory. Tensors are on the
    CPU; they are not to be written to. Raises ConfigError for a tensor that has no place in the
    architecture or cannot be read.
    """
    return iter_gguf(source.path) if source.is_gguf else iter_safetensors(source.weight_files)

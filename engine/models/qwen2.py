"""Qwen2 and Qwen2.5: a Llama with biases on q, k and v, and optional windows in upper layers."""

from __future__ import annotations

from baton.engine.models.llama import LlamaModel


class Qwen2Model(LlamaModel):
    """Same tensors, same names; `ModelConfig.attention_bias` asks for the biases."""

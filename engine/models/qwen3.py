"""Qwen3 (dense): a Llama with RMS norms on each head of q and k, and a head size of its own."""

from __future__ import annotations

from baton.engine.models.llama import LlamaModel


class Qwen3Model(LlamaModel):
    """Same tensors, same names, plus q_norm and k_norm, which `ModelConfig.qk_norm` asks for."""

"""Mistral: a Llama whose layers may see only the last `sliding_window` tokens."""

from __future__ import annotations

from baton.engine.models.llama import LlamaModel


class MistralModel(LlamaModel):
    """Same tensors, same names; the window comes with `ModelConfig.sliding_layers`."""

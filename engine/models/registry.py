"""From the architecture that a checkpoint names to the class that runs it.

A new family is one file with a class beside `llama.py`, one line here, and its defaults in
`engine/model/config.py`.
"""

from __future__ import annotations

import torch

from baton.engine.model.config import ModelConfig
from baton.engine.models.llama import LlamaModel
from baton.engine.models.mistral import MistralModel
from baton.engine.models.qwen2 import Qwen2Model
from baton.engine.models.qwen3 import Qwen3Model
from baton.kernels.ops import Ops
from baton.protocol.errors import ConfigError

MODELS: dict[str, type[LlamaModel]] = {
    "LlamaForCausalLM": LlamaModel,
    "MistralForCausalLM": MistralModel,
    "Qwen2ForCausalLM": Qwen2Model,
    "Qwen3ForCausalLM": Qwen3Model,
}


def build_model(
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    ops: Ops | None = None,
) -> LlamaModel:
    """A model without weights; `ops` defaults to the fastest for the device. Raises ConfigError
    for an architecture that is not known, listing those that are."""
    model = MODELS.get(config.architecture)
    if model is None:
        known = ", ".join(sorted(MODELS))
        raise ConfigError(f"unknown architecture {config.architecture!r}; known: {known}")
    return model(config, dtype=dtype, device=device, ops=ops)

"""Step times from kernels that others measured on the device: NVIDIA's `aiconfigurator`, now
becoming `aisimulate`, an optional package that brings its database along and needs no GPU.

A model is described to it by a config made from our `ModelShape`, so that nothing is looked up in a
network. What it knows is the kernels: scheduler, sampling and everything else on the host are not
in these times.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from baton.bench.planning.hardware.grid import Fitted, Step, fit
from baton.bench.planning.models import ModelShape
from baton.protocol.errors import ConfigError


class Host(NamedTuple):
    """Seconds that an engine's host adds to the kernels of a step, in whose shadow it does not
    stay: launching, sampling, preparing and handing out."""

    step: float
    sequence: float
    """For each that a token is sampled for."""

    def seconds(self, step: Step) -> float:
        return self.step + self.sequence * (step.prompts + step.sequences)


HOSTS = {
    "vllm": Host(1.2e-3, 15e-6),
    "trtllm": Host(0.9e-3, 37e-6),
    "sglang": Host(1.0e-3, 29e-6),
}
"""Fitted on the points that `baton bench planner` names."""
ENGINES = tuple(HOSTS)
"""Whose kernels."""
_MODULES = ("aiconfigurator_core.sdk.engine", "aisimulate_core.sdk.engine")
INSTALL = "pip install aiconfigurator-core"
_PRECISIONS = {"bfloat16": None, "float16": None, "fp8": "fp8_static", "int8": "int8_wo",
               "int4": "int4_wo"}
"""Weights of 8 bits come with scales that are known beforehand, as in most checkpoints; finding
them in every step would cost up to a third more."""
_EXPERT_PRECISIONS = _PRECISIONS | {"fp8": "fp8"}


def installed() -> bool:
    return _module() is not None


class Silicon:
    """A model as one worker of `devices` on `system`, a name of the database, with the kernels of
    `engine`. Raises ConfigError where the package or its data lacks them."""

    def __init__(
        self,
        model: ModelShape,
        system: str,
        devices: int,
        engine: str = "vllm",
        *,
        kv_fp8: bool = False,
        host: Host | None = None,
    ) -> None:
        """`kv_fp8`: the KV cache in 8 bits, where this was measured. `host`: instead of what
        HOSTS has for the engine."""
        self._host = HOSTS[engine] if host is None else host
        module = _module()
        if module is None:
            raise ConfigError(f"measured kernels need an optional package: {INSTALL}")
        if not model.gated:
            raise ConfigError(f"the database of measured kernels has no model like {model.name}")
        handle = importlib.import_module(module).EngineHandle
        options: dict[str, Any] = {"tp_size": devices}
        precision = _PRECISIONS.get(model.dtype)
        if precision is not None:
            options["gemm_quant_mode"] = precision
        if model.experts > 1:
            options["moe_tp_size"] = devices
            if precision is not None:
                options["moe_quant_mode"] = _EXPERT_PRECISIONS[model.dtype]
        tries = [{"kvcache_quant_mode": "fp8"}] if kv_fp8 else []
        tries.append({"kvcache_quant_mode": "bfloat16"} if precision is not None else {})
        for last, more in enumerate(tries, 1 - len(tries)):
            try:
                self._handle = _compiled(handle, model, system, engine, {**options, **more})
                break
            except Exception as error:  # its own kinds of errors, and those of its database
                if last < 0:
                    continue
                cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ConfigError(
                    f"no measured kernels for {model.name} in {model.dtype} on {devices} "
                    f"{system} with {engine}: {cause}"
                ) from error

    def curve(self) -> Fitted:
        """Of whole steps: kernels, and what the engine's host adds to them."""
        return fit(lambda step: self.seconds(step) + self._host.seconds(step))

    def seconds(self, step: Step) -> float:
        """Of the kernels."""
        if not step.prompts:
            return self._ms(self._handle.decode_step_latency(step.sequences, step.context, 2))
        if not step.sequences:
            return self._ms(self._handle.predict_prefill_latency(step.prompts, step.tokens))
        return self._ms(self._handle.mixed_step_latency(
            step.prompts * step.tokens, step.sequences, step.context, 2
        ))

    def _ms(self, value: float) -> float:
        return float(value) * 1e-3


def _compiled(handle: Any, model: ModelShape, system: str, engine: str, options: Any) -> Any:
    with TemporaryDirectory() as folder, _quiet():
        Path(folder, "config.json").write_text(json.dumps(_config(model)), encoding="utf-8")
        made = handle.compile(folder, system, engine, **options)
        made.predict_prefill_latency(1, 128)  # where data is missing, it says so only when asked
        return made


def _config(model: ModelShape) -> dict[str, Any]:
    """As Hugging Face writes it, of a model with these sizes."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": model.layers,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "vocab_size": model.vocab,
        "max_position_embeddings": model.max_position,
        "tie_word_embeddings": model.tied,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }
    if model.experts > 1:
        config |= {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "num_experts": model.experts,
            "num_experts_per_tok": model.active_experts,
            "moe_intermediate_size": model.intermediate,
        }
    return config


def _module() -> str | None:
    for name in _MODULES:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            return name
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It warns of what it fills in from neighbours, at length."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)

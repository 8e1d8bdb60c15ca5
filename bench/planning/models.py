"""The shape of a model, as far as its speed depends on it: from its config, or a table of names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from baton.bench.planning.known_models import KNOWN
from baton.engine.model.config import ModelConfig
from baton.engine.model.hub import is_hub_id
from baton.engine.model.source import load_config, read_json, resolve_model
from baton.protocol.errors import ConfigError
from baton.protocol.kvlayout import KVLayout

WEIGHT_BYTES = {
    "float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5,
}
"""Per weight; scales of quantised ones are left out."""
_SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "half": "float16"}
_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder. Sizes as in its `config.json`."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    """Of one expert, where there are several."""
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    """Input and output embedding are one."""
    gated: bool = True
    """The MLP has three matrices; otherwise two."""
    experts: int = 1
    active_experts: int = 1
    """That one token goes through, shared ones included."""
    dtype: str = "bfloat16"
    """Of the weights, a key of WEIGHT_BYTES."""
    max_position: int = 32_768

    @property
    def attention_parameters(self) -> int:
        """Of one layer."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def expert_parameters(self) -> int:
        """Of one expert of one layer."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """All of them; norms and biases are left out."""
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (
            self.attention_parameters + self.experts * self.expert_parameters
        )

    @property
    def layer_parameters(self) -> int:
        """That every token is multiplied with, over all layers, without the output embedding."""
        return self.layers * (
            self.attention_parameters + self.active_experts * self.expert_parameters
        )

    @property
    def head_parameters(self) -> int:
        """Of the output embedding, which only the last token of a prompt meets."""
        return self.vocab * self.hidden

    @property
    def byte(self) -> float:
        """Bytes of a weight."""
        return WEIGHT_BYTES[self.dtype]

    @property
    def weight_bytes(self) -> float:
        """Embeddings stay in 16 bits when layers are quantised."""
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return (self.parameters - embeddings) * self.byte + embeddings * max(2.0, self.byte)

    def layout(self, block_size: int = 16) -> KVLayout:
        return KVLayout(self.layers, self.kv_heads, self.head_dim, block_size, "bfloat16")

    def in_dtype(self, dtype: str | None) -> ModelShape:
        """The same with its weights in another. Raises ConfigError."""
        return self if dtype is None else replace(self, dtype=dtype_name(dtype))


def model_shape(spec: str | None, dtype: str | None = None) -> ModelShape:
    """`spec`: a name that is known, a directory with config.json (weights need not be there), a
    .gguf file, a hub id, of which only the config is fetched; None is the embedded model.

    Raises ConfigError, one line that names the cause.
    """
    return _find(spec).in_dtype(dtype)


def shape_from_config(raw: Mapping[str, Any], name: str) -> ModelShape:
    """Of a parsed config.json, quantised ones and mixtures of experts included. Raises
    ConfigError for one that lacks sizes."""
    raw = raw.get("text_config") or raw
    try:
        hidden = int(raw["hidden_size"])
        heads = int(raw["num_attention_heads"])
        experts = int(
            raw.get("num_local_experts") or raw.get("num_experts")
            or raw.get("n_routed_experts") or 1
        )
        inner = raw.get("moe_intermediate_size") if experts > 1 else None
        inner = inner or raw.get("intermediate_size") or raw.get("ffn_dim")
        return ModelShape(
            name=name,
            layers=int(raw["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(inner if inner is not None else 4 * hidden),
            heads=heads,
            kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=int(raw.get("head_dim") or hidden // heads),
            vocab=int(raw["vocab_size"]),
            tied=bool(raw.get("tie_word_embeddings", raw.get("model_type") == "opt")),
            gated=raw.get("model_type") not in ("opt", "gpt2", "gpt_neox", "bloom", "falcon"),
            experts=experts,
            active_experts=min(experts, int(raw.get("num_experts_per_tok") or 1)
                               + int(raw.get("n_shared_experts") or 0)),
            dtype=_stored_dtype(raw),
            max_position=int(raw.get("max_position_embeddings") or 32_768),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{name}: no sizes of a decoder in its config: {error!r}") from error


# -- inside ----------------------------------------------------------------------------------


def _find(spec: str | None) -> ModelShape:
    if spec is None:
        return _of_ours(load_config(resolve_model(None)), "embedded")
    known = _known(spec)
    if known is not None:
        return known
    path = Path(spec).expanduser()
    if path.is_dir():
        return shape_from_config(read_json(path / "config.json"), path.resolve().name)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _of_ours(load_config(resolve_model(spec)), path.stem)
    if path.is_file():
        return shape_from_config(read_json(path), path.stem)
    if is_hub_id(spec):
        return shape_from_config(_fetched(spec), spec)
    raise ConfigError(f"{spec}: no file, no directory and no name that is known: "
                      f"{', '.join(sorted(KNOWN))}")


def _known(spec: str) -> ModelShape | None:
    """By the name without its owner; what says how it was trained or stored does not matter."""
    name = spec.rpartition("/")[2].lower()
    name = re.sub(r"^meta-", "", name)
    bare = re.sub(r"(-instruct|-chat|-it|-hf|-base|-v0\.\d|-fp8|-bf16|-dynamic)+$", "", name)
    if bare not in KNOWN:
        return None
    shape = ModelShape(name=bare, **KNOWN[bare])
    return replace(shape, dtype="fp8") if "-fp8" in name else shape


def _fetched(repo: str) -> Mapping[str, Any]:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        # A download would try again for half a minute where there is no network.
        HfApi().model_info(repo, timeout=_TIMEOUT_S)
        cause, here = "", False
    except (HTTPError, OSError) as error:
        cause, here = (str(error).strip().splitlines() or [type(error).__name__])[0], True
    try:
        path = hf_hub_download(
            repo, "config.json", etag_timeout=_TIMEOUT_S, local_files_only=here
        )
    except (HTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"{repo}: its config is neither in the hub's local cache nor to be fetched"
            f"{f' ({cause})' if cause else ''}; give a directory with config.json, or one of: "
            f"{', '.join(sorted(KNOWN))}"
        ) from error
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{repo}: config.json is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{repo}: config.json must hold an object")
    return value


def _of_ours(config: ModelConfig, name: str) -> ModelShape:
    return ModelShape(
        name=name,
        layers=config.num_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
        dtype=config.torch_dtype,
        max_position=config.max_position,
    )


def _stored_dtype(raw: Mapping[str, Any]) -> str:
    quantised = raw.get("quantization_config")
    if quantised:
        method = str(quantised.get("quant_method", ""))
        bits = quantised.get("bits")
        if bits == 4 or (method in ("awq", "gptq") and bits in (None, 4)):
            return "int4"
        return "fp8" if "fp8" in method or quantised.get("activation_scheme") else "int8"
    stored = str(raw.get("dtype") or raw.get("torch_dtype") or "bfloat16")
    return "float16" if stored == "float16" else "bfloat16"


def dtype_name(text: str) -> str:
    """A key of WEIGHT_BYTES. Raises ConfigError."""
    name = _SHORT.get(text.lower(), text.lower())
    if name not in WEIGHT_BYTES:
        raise ConfigError(f"{text!r} is no dtype of weights; known: {', '.join(WEIGHT_BYTES)}")
    return name

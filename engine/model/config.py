"""The shape of a model, read from a Hugging Face `config.json`. Pure; no torch.

`ModelConfig` holds only what the forward pass and the cache need, with every default of the
architecture already filled in, so that nobody downstream asks "and if the key is absent?".
Key spellings of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and 5
(`rope_parameters`, `dtype`) are both read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baton.protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a Hugging Face class leaves unsaid in its `config.json`."""

    model_type: str
    qkv_bias: bool = False
    """True where q, k, v always carry a bias, whatever the configuration says."""
    qk_norm: bool = False
    head_dim: int | None = None
    """Default head size; None: hidden_size / num_heads."""
    num_kv_heads: int | None = None
    """Default of the class; None: as many as query heads."""
    max_position: int = 2048
    sliding_window: int | None = None
    windowed_by_layer: bool = False
    """Sliding windows only with `use_sliding_window`, from layer `max_window_layers` on."""


ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture("llama"),
    "MistralForCausalLM": Architecture(
        "mistral", num_kv_heads=8, max_position=131072, sliding_window=4096
    ),
    "Qwen2ForCausalLM": Architecture(
        "qwen2",
        qkv_bias=True,
        num_kv_heads=32,
        max_position=32768,
        sliding_window=4096,
        windowed_by_layer=True,
    ),
    "Qwen3ForCausalLM": Architecture(
        "qwen3",
        qk_norm=True,
        head_dim=128,
        num_kv_heads=32,
        max_position=32768,
        sliding_window=4096,
        windowed_by_layer=True,
    ),
}

ROPE_KINDS = ("linear", "llama3", "yarn")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched. Fields that a kind does not use are None."""

    kind: str
    """One of ROPE_KINDS."""
    factor: float
    original_max_position: int | None = None
    """llama3, yarn: the context length of pre-training."""
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    """yarn: multiplies cos and sin; None: derive from `factor`, `mscale`, `mscale_all_dim`."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class ModelConfig:
    architecture: str
    """Hugging Face class name, a key of ARCHITECTURES."""
    vocab_size: int
    """Rows of the embedding; the tokenizer may know fewer tokens."""
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_position: int
    """Longest context in tokens, rope scaling included."""
    tie_word_embeddings: bool
    attention_bias: bool
    """q, k and v projections carry a bias."""
    attention_output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """RMS norm over each head of q and k before the rotation."""
    sliding_window: int | None
    """A token attends to itself and the `sliding_window - 1` before it, in sliding layers."""
    sliding_layers: tuple[bool, ...] | None
    """Per layer; None exactly when `sliding_window` is None."""
    hidden_act: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    torch_dtype: str
    """The dtype of the stored weights, one of DTYPES ("float32" for quantised GGUF)."""


def config_from_hf(raw: Mapping[str, Any], *, where: str = "config.json") -> ModelConfig:
    """`raw` is a parsed config.json; `where` names it in messages.

    Raises ConfigError for an architecture that is not known, quantised weights, a rope kind that
    is not known, and missing or contradictory sizes.
    """
    name = _architecture_name(raw, where)
    family = ARCHITECTURES[name]
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method", "unknown")
        raise ConfigError(
            f"{where}: weights quantised with {method!r} are not supported; "
            "use float32, bfloat16 or float16 safetensors, or a GGUF file"
        )
    hidden = _size(raw, "hidden_size", where)
    heads = _size(raw, "num_attention_heads", where)
    layers = _size(raw, "num_hidden_layers", where)
    kv_heads = _optional_size(raw, "num_key_value_heads", heads, family.num_kv_heads, where)
    head_dim = _optional_size(raw, "head_dim", hidden // heads, family.head_dim, where)
    if heads % kv_heads:
        raise ConfigError(
            f"{where}: num_attention_heads ({heads}) is not a multiple of "
            f"num_key_value_heads ({kv_heads})"
        )
    if head_dim % 2:
        raise ConfigError(f"{where}: head_dim ({head_dim}) must be even for rotary embedding")
    stored_max = raw.get("max_position_embeddings") or family.max_position
    theta, scaling, max_position = _rope(raw, int(stored_max), where)
    window, sliding = _sliding(raw, family, layers)
    bias = bool(raw.get("attention_bias", False))
    act = raw.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise ConfigError(f"{where}: hidden_act {act!r} is not supported; known: silu")
    return ModelConfig(
        architecture=name,
        vocab_size=_size(raw, "vocab_size", where),
        hidden_size=hidden,
        intermediate_size=_size(raw, "intermediate_size", where),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        max_position=max_position,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=family.qkv_bias or bias,
        attention_output_bias=bias and not family.qkv_bias,
        mlp_bias=bool(raw.get("mlp_bias", False)),
        qk_norm=family.qk_norm,
        sliding_window=window,
        sliding_layers=sliding,
        hidden_act="silu",
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=token_ids(raw.get("eos_token_id")),
        torch_dtype=_dtype(raw),
    )


def token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """Configurations write one id, a list of ids, or null."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _architecture_name(raw: Mapping[str, Any], where: str) -> str:
    names = raw.get("architectures") or []
    for name in names:
        if name in ARCHITECTURES:
            return str(name)
    if not names:
        for name, family in ARCHITECTURES.items():
            if family.model_type == raw.get("model_type"):
                return name
    stated = ", ".join(names) or raw.get("model_type") or "none stated"
    raise ConfigError(
        f"{where}: unknown architecture {stated}; known: {', '.join(sorted(ARCHITECTURES))}"
    )


def _size(raw: Mapping[str, Any], key: str, where: str) -> int:
    value = raw.get(key)
    if value is None:
        raise ConfigError(f"{where}: {key} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where}: {key} must be a positive integer, not {value!r}")
    return value


def _optional_size(
    raw: Mapping[str, Any], key: str, derived: int, default: int | None, where: str
) -> int:
    """An absent key means the default of the class; an explicit null means `derived`."""
    if key not in raw and default is not None:
        return default
    return derived if raw.get(key) is None else _size(raw, key, where)


def _rope(
    raw: Mapping[str, Any], stored_max: int, where: str
) -> tuple[float, RopeScaling | None, int]:
    """(theta, scaling, max_position)."""
    rope = dict(raw.get("rope_scaling") or {}) | dict(raw.get("rope_parameters") or {})
    theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    partial = rope.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise ConfigError(f"{where}: partial_rotary_factor {partial} is not supported, only 1.0")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None, stored_max
    if kind not in ROPE_KINDS:
        raise ConfigError(
            f"{where}: rope scaling {kind!r} is not supported; known: {', '.join(ROPE_KINDS)}"
        )
    original = rope.get("original_max_position_embeddings")
    factor = rope.get("factor")
    if factor is None:
        factor = stored_max / original if original else 1.0
    scaling = RopeScaling(
        kind=kind,
        factor=float(factor),
        original_max_position=None if kind == "linear" else int(original or stored_max),
        low_freq_factor=_number(rope, "low_freq_factor"),
        high_freq_factor=_number(rope, "high_freq_factor"),
        attention_factor=_number(rope, "attention_factor"),
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        mscale=_number(rope, "mscale"),
        mscale_all_dim=_number(rope, "mscale_all_dim"),
        truncate=bool(rope.get("truncate", True)),
    )
    if kind == "llama3" and (scaling.low_freq_factor is None or scaling.high_freq_factor is None):
        raise ConfigError(
            f"{where}: rope scaling 'llama3' needs low_freq_factor and high_freq_factor"
        )
    # Publishers differ on whether max_position_embeddings already includes the stretch of yarn:
    # the larger of both readings is what the rotary embedding was made for.
    stretched = int((original or stored_max) * scaling.factor) if kind == "yarn" else 0
    return theta, scaling, max(stored_max, stretched)


def _number(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    return None if value is None else float(value)


def _sliding(
    raw: Mapping[str, Any], family: Architecture, layers: int
) -> tuple[int | None, tuple[bool, ...] | None]:
    window = raw.get("sliding_window", family.sliding_window)
    if family.windowed_by_layer and not raw.get("use_sliding_window", False):
        window = None
    if family.sliding_window is None or window is None:
        return None, None
    if family.windowed_by_layer:
        first = int(raw.get("max_window_layers", 28))
        kinds = raw.get("layer_types")
        sliding = (
            tuple(kind == "sliding_attention" for kind in kinds)
            if kinds
            else tuple(layer >= first for layer in range(layers))
        )
    else:
        sliding = (True,) * layers
    return (int(window), sliding) if any(sliding) else (None, None)


def _dtype(raw: Mapping[str, Any]) -> str:
    name = str(raw.get("torch_dtype") or raw.get("dtype") or "float32").removeprefix("torch.")
    return name if name in DTYPES else "float32"

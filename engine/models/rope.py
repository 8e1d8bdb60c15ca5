"""Rotary position embedding: inverse frequencies for each kind of scaling, angles for a step.

The formulas are those of the models' publishers as transformers implements them, computed in
float32 like there, so that logits agree to rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from baton.engine.model.config import ModelConfig, RopeScaling
from baton.protocol.errors import ConfigError


class Rope:
    """Angles are computed per step for the positions at hand: a table for the whole context of a
    long-context model would take more memory than it saves time."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        """Raises ConfigError for a kind of scaling that is not known."""
        frequencies, self._factor = inverse_frequencies(config)
        self._frequencies = frequencies.to(device)

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [T] to (cos, sin), float32 [T, head_dim / 2] each."""
        angle = positions.float()[:, None] * self._frequencies
        cos, sin = angle.cos(), angle.sin()
        if self._factor != 1.0:
            cos.mul_(self._factor)
            sin.mul_(self._factor)
        return cos, sin


def inverse_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    """(float32 [head_dim / 2], factor on cos and sin)."""
    dim = config.head_dim
    plain = 1.0 / config.rope_theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "default":
        return plain, 1.0
    if scaling.kind == "linear":
        return plain / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(plain, scaling), 1.0
    if scaling.kind == "yarn":
        return _yarn(plain, scaling, config), _yarn_factor(scaling)
    raise ConfigError(
        f"rope scaling {scaling.kind!r} is not supported; known: default, linear, llama3, yarn"
    )


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Long waves are stretched, short ones kept, those between blended."""
    low, high, original = (
        _required(scaling, field)
        for field in ("low_freq_factor", "high_freq_factor", "original_max_position")
    )
    wavelength = 2 * math.pi / plain
    stretched = torch.where(wavelength > original / low, plain / scaling.factor, plain)
    smooth = (original / wavelength - low) / (high - low)
    blended = (1 - smooth) * stretched / scaling.factor + smooth * stretched
    between = (wavelength >= original / high) & (wavelength <= original / low)
    return torch.where(between, blended, stretched)


def _yarn(plain: Tensor, scaling: RopeScaling, config: ModelConfig) -> Tensor:
    """A ramp over the dimensions from kept to stretched frequencies."""
    original, dim = _required(scaling, "original_max_position"), config.head_dim

    def dimension_turning(times: float) -> float:
        return dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = dimension_turning(scaling.beta_fast), dimension_turning(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return plain / scaling.factor * ramp + plain * (1 - ramp)


def _yarn_factor(scaling: RopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def mscale(weight: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * weight * math.log(scaling.factor) + 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return mscale(scaling.mscale) / mscale(scaling.mscale_all_dim)
    return mscale(1.0)


def _required(scaling: RopeScaling, field: str) -> float:
    value = getattr(scaling, field)
    if value is None:
        raise ConfigError(f"rope scaling {scaling.kind!r} needs {field}")
    return float(value)

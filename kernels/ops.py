"""The seam between models and kernels: the operations a decoder needs.

A model calls only these, so a faster kernel for some device is one more subclass of `Ops` and
nothing else. `reference.py` defines what each operation means; the others are tested against it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from baton.kernels.attention_batch import AttentionBatch, AttentionShape, LayerKV, split_qkv


class PackedLinear(ABC):
    """A weight matrix in the form that its kernel likes best."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """[T, in] to [T, out]."""


class Ops(ABC):
    """Activations are [T, ...] of one dtype; norms and rotations compute in float32 inside."""

    name: str

    @abstractmethod
    def pack_linear(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        """`weight` is [out, in]. The caller drops it afterwards; the result may keep it."""

    @abstractmethod
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / rms(x) * weight over the last axis, which has the size of `weight`."""

    @abstractmethod
    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """(rms_norm(x + residual), x + residual). May overwrite both inputs."""

    @abstractmethod
    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """[T, 2 * n] to [T, n]: silu of the first half times the second."""

    @abstractmethod
    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotary embedding in place. x: [T, heads, dim]; cos, sin: float32 [T, dim / 2]. Pairs are
        (i, i + dim / 2)."""

    @abstractmethod
    def write_kv(self, k: Tensor, v: Tensor, kv: LayerKV, slots: Tensor) -> None:
        """Store k, v [T, kv_heads, dim] at `slots` of the cache."""

    @abstractmethod
    def attend(
        self, q: Tensor, kv: LayerKV, batch: AttentionBatch, shape: AttentionShape
    ) -> Tensor:
        """q [T, heads, dim] over the cache, which already holds these tokens: [T, heads * dim]."""

    def attention(
        self,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        kv: LayerKV,
        batch: AttentionBatch,
        shape: AttentionShape,
    ) -> Tensor:
        """Rotate q and k, write k and v, attend: what lies between the two projections of an
        attention layer. qkv: [T, (heads + 2 kv_heads) * dim], overwritten. A backend that fuses
        these overrides this."""
        q, k, v = split_qkv(qkv, shape)
        self.rotate(qkv.view(qkv.shape[0], -1, shape.head_dim)[:, : -shape.num_kv_heads], cos, sin)
        self.write_kv(k, v, kv, batch.slots)
        return self.attend(q, kv, batch, shape)


def select_ops(device: torch.device, dtype: torch.dtype) -> Ops:
    """The fastest operations that work here."""
    # Imported here, because each of them imports this module.
    if device.type == "cuda":
        from baton.kernels.triton.ops import TritonOps

        return TritonOps()
    if device.type == "cpu":
        from baton.kernels.cpu import CpuOps
        from baton.kernels.native.ops import native_ops

        return native_ops(dtype) or CpuOps()
    from baton.kernels.reference import ReferenceOps

    return ReferenceOps()

"""CPU operations with the C kernels for all that is small; matrix products and prefill attention
stay with torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from baton.kernels.attention_batch import AttentionBatch, AttentionShape, LayerKV, split_qkv
from baton.kernels.cpu import CpuOps, prefill_attention
from baton.kernels.native.build import load

_POINTER, _INT64, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_ARGUMENTS = {
    "rms_norm": [*[_POINTER] * 4, *[_INT64] * 5, _FLOAT, _INT],
    "silu_and_mul": [_POINTER, _POINTER, _INT64, _INT64, _INT],
    "attention": [*[_POINTER] * 8, *[_INT64] * 4, _INT],
}


class _Layer(ctypes.Structure):
    """`struct layer` of typed.h."""

    _fields_ = (
        ("keys", _POINTER),
        ("values", _POINTER),
        ("stride_block", _INT64),
        ("stride_head", _INT64),
        ("stride_token", _INT64),
        ("block_size", _INT64),
        ("heads", _INT64),
        ("kv_heads", _INT64),
        ("dim", _INT64),
        ("window", _INT64),
        ("scale", _FLOAT),
    )


def native_ops(dtype: torch.dtype) -> NativeOps | None:
    """None where the kernels cannot be built, or not for this dtype."""
    library = load()
    name = str(dtype).removeprefix("torch.")
    if library is None or not hasattr(library, f"attention_{name}"):
        return None
    return NativeOps(library, dtype)


class NativeOps(CpuOps):
    """For tensors of one dtype on the CPU."""

    name = "native"

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        suffix = str(dtype).removeprefix("torch.")

        def function(name: str) -> Callable[..., None]:
            found: Any = getattr(library, f"{name}_{suffix}")
            found.argtypes, found.restype = _ARGUMENTS[name], None
            return found  # type: ignore[no-any-return]

        self._rms_norm = function("rms_norm")
        self._silu_and_mul = function("silu_and_mul")
        self._attention = function("attention")
        self._layers: dict[tuple[int, tuple[int, ...], AttentionShape], _Layer] = {}

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = weight.shape[0]
        inner, inner_stride = (x.shape[1], x.stride(1)) if x.dim() == 3 else (1, 0)
        out = x.new_empty(x.shape)
        self._rms_norm(
            x.data_ptr(), None, weight.data_ptr(), out.data_ptr(), x.numel() // size, inner,
            x.stride(0), inner_stride, size, eps, torch.get_num_threads(),
        )  # fmt: skip
        return out

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        rows, size = x.shape
        out = torch.empty_like(x)
        self._rms_norm(
            x.data_ptr(), residual.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, 1,
            x.stride(0), 0, size, eps, torch.get_num_threads(),
        )  # fmt: skip
        return out, residual

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, size)
        self._silu_and_mul(
            gate_up.data_ptr(), out.data_ptr(), rows, size, torch.get_num_threads()
        )
        return out

    def attention(
        self,
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        kv: LayerKV,
        batch: AttentionBatch,
        shape: AttentionShape,
    ) -> Tensor:
        if kv.keys.stride(3) != 1 or shape.head_dim % 16:
            return super().attention(qkv, cos, sin, kv, batch, shape)
        rows = qkv.shape[0]
        out = qkv.new_empty(rows, shape.num_heads * shape.head_dim)
        self._attention(
            ctypes.byref(self._layer(kv, shape)), qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(),
            batch.slots.data_ptr(), batch.block_tables.data_ptr(), batch.context_lens.data_ptr(),
            out.data_ptr(), rows, batch.num_decode, qkv.stride(0), batch.block_tables.stride(0),
            torch.get_num_threads(),
        )  # fmt: skip
        if batch.prefills:
            q = split_qkv(qkv, shape)[0]
            for chunk in batch.prefills:
                span = slice(chunk.start, chunk.start + chunk.length)
                out[span] = prefill_attention(q[span], kv, batch, chunk, shape).flatten(1)
        return out

    def _layer(self, kv: LayerKV, shape: AttentionShape) -> _Layer:
        key = (kv.keys.data_ptr(), kv.keys.stride(), shape)
        layer = self._layers.get(key)
        if layer is None:
            block, head, token, _ = kv.keys.stride()
            layer = self._layers[key] = _Layer(
                kv.keys.data_ptr(), kv.values.data_ptr(), block, head, token, kv.block_size,
                shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.window or 0,
                shape.scale,
            )  # fmt: skip
        return layer

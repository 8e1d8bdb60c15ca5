"""Operations for GPUs: Triton for what is bound by memory, torch for matrix products and prefill
attention (cuBLAS, and the flash kernel behind scaled_dot_product_attention)."""

from __future__ import annotations

import triton
from torch import Tensor

from baton.kernels.attention_batch import AttentionBatch, AttentionShape, LayerKV, split_qkv
from baton.kernels.cpu import prefill_attention
from baton.kernels.ops import PackedLinear
from baton.kernels.reference import PlainLinear, ReferenceOps
from baton.kernels.triton.kernels import (
    decode_attention_kernel,
    rms_norm_kernel,
    rotate_write_kernel,
    silu_and_mul_kernel,
)

# Keys looked at together by decode attention: a few blocks, so that loads overlap.
_TOKENS = 32


class TritonOps(ReferenceOps):
    name = "triton"

    def pack_linear(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        return PlainLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = weight.shape[0]
        inner, row_stride, inner_stride = 1, x.stride(0), 0
        if x.dim() == 3:  # [T, heads, dim], a view into q, k and v
            inner, inner_stride = x.shape[1], x.stride(1)
        out = x.new_empty(x.shape)
        rms_norm_kernel[(x.numel() // size,)](
            x, x, weight, out, row_stride, inner_stride, inner, size, eps,
            ADD=False, BLOCK=triton.next_power_of_2(size),
        )
        return out

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        size = weight.shape[0]
        out = x.new_empty(x.shape)
        rms_norm_kernel[(x.shape[0],)](
            x, residual, weight, out, x.stride(0), 0, 1, size, eps,
            ADD=True, BLOCK=triton.next_power_of_2(size),
        )
        return out, residual

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, size)
        silu_and_mul_kernel[(rows, triton.cdiv(size, 1024))](gate_up, out, size, BLOCK=1024)
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
        half = shape.head_dim // 2
        heads = shape.num_heads + 2 * shape.num_kv_heads
        rotate_write_kernel[(qkv.shape[0], heads)](
            qkv, cos, sin, batch.slots, kv.keys, kv.values, qkv.stride(0), *_strides(kv),
            shape.num_heads, shape.num_kv_heads, kv.block_size,
            HALF=half, BLOCK=triton.next_power_of_2(half),
        )
        q = split_qkv(qkv, shape)[0]
        return self.attend(q, kv, batch, shape)

    def attend(
        self, q: Tensor, kv: LayerKV, batch: AttentionBatch, shape: AttentionShape
    ) -> Tensor:
        """Heads of q lie next to each other, rows may lie apart."""
        out = q.new_empty(q.shape)
        if batch.num_decode:
            group = shape.num_heads // shape.num_kv_heads
            decode_attention_kernel[(batch.num_decode, shape.num_kv_heads)](
                q, kv.keys, kv.values, out, batch.block_tables, batch.context_lens,
                q.stride(0), *_strides(kv), batch.block_tables.stride(0),
                shape.scale, shape.window or 0, group, shape.head_dim,
                BLOCK_SIZE=kv.block_size, TOKENS=_TOKENS,
                GROUP=triton.next_power_of_2(group), DIM=triton.next_power_of_2(shape.head_dim),
            )
        for chunk in batch.prefills:
            rows = slice(chunk.start, chunk.start + chunk.length)
            out[rows] = prefill_attention(q[rows], kv, batch, chunk, shape)
        return out.flatten(1)


def _strides(kv: LayerKV) -> tuple[int, int, int, int]:
    """Of keys and values alike, in elements: block, head, token, dim."""
    block, head, token, dim = kv.keys.stride()
    return block, head, token, dim

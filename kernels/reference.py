"""What the operations mean: plain PyTorch, any device, obviously right, not fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from baton.kernels.attention_batch import AttentionBatch, AttentionShape, LayerKV, visible
from baton.kernels.ops import Ops, PackedLinear


class PlainLinear(PackedLinear):
    """The weight as it is."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class ReferenceOps(Ops):
    name = "reference"

    def pack_linear(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        return PlainLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return wide.to(x.dtype) * weight

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        first, second = x.float().chunk(2, dim=-1)
        cos, sin = cos[:, None, :], sin[:, None, :]
        x.copy_(torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1))

    def write_kv(self, k: Tensor, v: Tensor, kv: LayerKV, slots: Tensor) -> None:
        block, offset = slots // kv.block_size, slots % kv.block_size
        kv.keys[block, :, offset] = k
        kv.values[block, :, offset] = v

    def attend(
        self, q: Tensor, kv: LayerKV, batch: AttentionBatch, shape: AttentionShape
    ) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for row, context in enumerate(batch.host_context_lens):
            blocks = batch.block_tables[row, : -(-context // kv.block_size)]
            out[row] = self._one(q[row : row + 1], kv, blocks, context, shape)[0]
        for chunk in batch.prefills:
            rows = slice(chunk.start, chunk.start + chunk.length)
            out[rows] = self._one(q[rows], kv, chunk.blocks, chunk.context, shape)
        return out.flatten(1)

    @staticmethod
    def _one(
        q: Tensor, kv: LayerKV, blocks: Tensor, context: int, shape: AttentionShape
    ) -> Tensor:
        """The last rows of one sequence: q [Q, heads, dim] to [Q, heads, dim]."""
        keys = gather(kv.keys, blocks, context).float()
        values = gather(kv.values, blocks, context).float()
        group = shape.num_heads // shape.num_kv_heads
        keys = keys.repeat_interleave(group, dim=0)
        values = values.repeat_interleave(group, dim=0)
        scores = torch.einsum("qhd,hkd->hqk", q.float(), keys) * shape.scale
        positions = torch.arange(context - q.shape[0], context, device=q.device)
        mask = visible(positions, context, shape.window)
        weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        return torch.einsum("hqk,hkd->qhd", weights, values).to(q.dtype)


def gather(cache: Tensor, blocks: Tensor, context: int) -> Tensor:
    """One sequence's keys or values as [kv_heads, context, dim], a copy."""
    _, heads, block_size, dim = cache.shape
    gathered = cache.index_select(0, blocks[: -(-context // block_size)])
    return gathered.transpose(0, 1).reshape(heads, -1, dim)[:, :context]

"""Operations for CPUs from torch's own kernels.

Three habits make the difference to plain calls: weights are packed once for oneDNN (`F.linear`
packs at every call); the decode rows of a step are one batched product over gathered blocks
instead of one attention call each; small operations are few and in place.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from baton.kernels.attention_batch import (
    AttentionBatch,
    AttentionShape,
    LayerKV,
    PrefillChunk,
    visible,
)
from baton.kernels.ops import PackedLinear
from baton.kernels.reference import PlainLinear, ReferenceOps, gather

# oneDNN picks the packed format for this many rows. Measured at 1, 16 and 256 rows: formats made
# for 16 are as fast as any for one row and twice as fast for many (float32).
_PACK_ROWS = 16

# Queries of a prefill chunk attended to at once: their scores stay in the cache.
_TILE = 128


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of this dtype on this CPU (float16 needs AVX512-FP16)."""
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=dtype), _PACK_ROWS)
    except (RuntimeError, AttributeError):
        return False
    return True


def _padded_rows(rows: int) -> int:
    """Exact up to 16, then at most an eighth more."""
    if rows <= 16:
        return rows
    step = 1 << ((rows - 1).bit_length() - 4)
    return -(-rows // step) * step


class OneDnnLinear(PackedLinear):
    """A weight in oneDNN's blocked format. `compute` is the dtype it is packed in.

    oneDNN compiles a kernel for every number of rows it meets and keeps a thousand of them. A
    server meets all numbers, which costs milliseconds each and hundreds of megabytes in all, so
    the rows are rounded up to one of a few dozen.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, compute: torch.dtype) -> None:
        self._dtype = compute
        self._weight = torch.ops.mkldnn._reorder_linear_weight(
            weight.to(compute).contiguous(), _PACK_ROWS
        )
        self._bias = None if bias is None else bias.to(compute)
        self._run = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        rows = len(x)
        padded = _padded_rows(rows)
        if padded != rows:
            whole = x.new_empty(padded, x.shape[1], dtype=self._dtype)
            whole[:rows] = x
        else:
            whole = x.to(self._dtype)
        result: Tensor = self._run(whole, self._weight, self._bias, "none", [], "")
        return result[:rows].to(x.dtype)


class CpuOps(ReferenceOps):
    name = "cpu"

    def pack_linear(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        if _packs(weight.dtype):
            return OneDnnLinear(weight, bias, weight.dtype)
        if _packs(torch.float32):
            # Twice the memory, but float16 without hardware support is 10 times slower unpacked.
            return OneDnnLinear(weight, bias, torch.float32)
        return PlainLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, eps)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        residual = residual.add_(x)
        return F.rms_norm(residual, weight.shape, weight, eps), residual

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def attend(
        self, q: Tensor, kv: LayerKV, batch: AttentionBatch, shape: AttentionShape
    ) -> Tensor:
        out = q.new_empty(q.shape)
        if batch.num_decode:
            out[: batch.num_decode] = self._decode(q[: batch.num_decode], kv, batch, shape)
        for chunk in batch.prefills:
            rows = slice(chunk.start, chunk.start + chunk.length)
            out[rows] = prefill_attention(q[rows], kv, batch, chunk, shape)
        return out.flatten(1)

    @staticmethod
    def _decode(
        q: Tensor, kv: LayerKV, batch: AttentionBatch, shape: AttentionShape
    ) -> Tensor:
        """q [B, heads, dim] to the same shape; contexts are padded to the longest."""
        rows, heads, block_size, dim = len(q), shape.num_kv_heads, kv.block_size, shape.head_dim
        width = batch.block_tables.shape[1]
        keys, values = (
            _gather_heads(cache, batch).view(rows * heads, width * block_size, dim)
            for cache in (kv.keys, kv.values)
        )
        mask = batch.once(
            ("decode mask", shape.window, q.dtype),
            lambda: _decode_mask(batch, width * block_size, shape, q.dtype),
        )
        grouped = q.reshape(rows * heads, shape.num_heads // heads, dim)
        scores = torch.baddbmm(mask, grouped, keys.transpose(1, 2), alpha=shape.scale)
        return torch.bmm(scores.softmax(dim=-1), values).view(rows, shape.num_heads, dim)


def _decode_mask(
    batch: AttentionBatch, width: int, shape: AttentionShape, dtype: torch.dtype
) -> Tensor:
    """0 or -inf, [rows * kv_heads, 1, width]."""
    seen = visible(batch.context_lens - 1, width, shape.window)
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    mask.masked_fill_(~seen, float("-inf"))
    return mask.repeat_interleave(shape.num_kv_heads, dim=0)[:, None, :]


def _gather_heads(cache: Tensor, batch: AttentionBatch) -> Tensor:
    """The blocks of all decode rows, [rows, kv_heads, max_blocks, block_size, dim], a copy.

    Where a head's part of a block is one contiguous span (the default layout), these spans are
    copied straight to where they belong; other layouts take one more copy.
    """
    blocks, heads, block_size, dim = cache.shape
    span = block_size * dim
    per_block, per_head = cache.stride(0), cache.stride(1)
    tables = batch.block_tables
    aligned = per_block % span == 0 and per_head % span == 0
    if cache.stride()[2:] != (dim, 1) or not aligned:
        gathered = cache.index_select(0, tables.flatten()).view(*tables.shape, *cache.shape[1:])
        return gathered.transpose(1, 2).contiguous()
    index = batch.once(
        ("head spans", per_block, per_head, span),
        lambda: (
            tables[:, None, :].long() * (per_block // span)
            + torch.arange(heads, device=tables.device)[None, :, None] * (per_head // span)
        ).flatten(),
    )
    length = (blocks - 1) * (per_block // span) + (heads - 1) * (per_head // span) + 1
    spans = cache.as_strided((length, span), (span, 1))
    return spans.index_select(0, index)


def prefill_attention(
    q: Tensor, kv: LayerKV, batch: AttentionBatch, chunk: PrefillChunk, shape: AttentionShape
) -> Tensor:
    """q [Q, heads, dim], the rows of one chunk, to the same shape."""
    keys = gather(kv.keys, chunk.blocks, chunk.context)
    values = gather(kv.values, chunk.blocks, chunk.context)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        return _tiled_attention(q, keys, values, chunk.context - chunk.length, shape)
    first = chunk.length == chunk.context
    windowed = shape.window is not None and shape.window < chunk.context
    mask = None
    if not first or windowed:
        mask = batch.once(
            ("prefill mask", chunk.start, shape.window),
            lambda: visible(
                torch.arange(chunk.context - chunk.length, chunk.context, device=q.device),
                chunk.context,
                shape.window,
            ),
        )
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=shape.scale,
        enable_gqa=shape.num_heads != shape.num_kv_heads,
    )
    return out[0].transpose(0, 1)


def _tiled_attention(
    q: Tensor, keys: Tensor, values: Tensor, offset: int, shape: AttentionShape
) -> Tensor:
    """q [Q, heads, dim], whose first row is at position `offset`, over keys and values [kv_heads,
    context, dim], to [Q, heads, dim].

    A tile of queries at a time as plain products over just the keys it may see: three times as
    fast as torch's flash kernel where the CPU multiplies bfloat16 itself. Scores are rounded to
    bfloat16, as eager attention does.
    """
    kv_heads, dim = shape.num_kv_heads, shape.head_dim
    group = shape.num_heads // kv_heads
    out = q.new_empty(q.shape)
    zero = q.new_zeros(1)
    tiles = [_Tile(offset, begin, min(_TILE, len(q) - begin), shape.window)
             for begin in range(0, len(q), _TILE)]
    # Zeros, because a hidden value is still multiplied by zero.
    slack = max(tile.first + tile.width for tile in tiles) - keys.shape[1]
    keys, values = (F.pad(tensor, (0, 0, 0, max(0, slack))) for tensor in (keys, values))
    for tile in tiles:
        begin, rows, start, first = tile.begin, tile.rows, offset + tile.begin, tile.first
        grouped = q.new_zeros(kv_heads, group, tile.height, dim)
        grouped[:, :, :rows] = (
            q[begin : begin + rows].transpose(0, 1).view(kv_heads, group, rows, dim)
        )
        span = slice(first, first + tile.width)
        scores = torch.baddbmm(
            zero, grouped.view(kv_heads, -1, dim), keys[:, span].transpose(1, 2),
            beta=0, alpha=shape.scale,
        )  # fmt: skip
        per_row = scores.view(kv_heads, group, tile.height, tile.width)
        if shape.window is None:
            # All keys before the tile are seen by all of it.
            after = torch.ones(tile.height, tile.width - start, dtype=torch.bool).triu_(1)
            per_row[..., start:].masked_fill_(after, float("-inf"))
        else:
            positions = torch.arange(start, start + tile.height)
            seen = visible(positions, first + tile.width, shape.window)[:, first:]
            per_row.masked_fill_(~seen, float("-inf"))
        weighted = torch.bmm(scores.softmax(dim=-1), values[:, span])
        per_head = weighted.view(-1, tile.height, dim)[:, :rows]
        out[begin : begin + rows] = per_head.transpose(0, 1)
    return out


class _Tile:
    """Queries [begin, begin + rows) of a chunk and the keys they may see, [first, first + width).
    `height` and `width` are rounded up to a few sizes, for the reason given at OneDnnLinear."""

    def __init__(self, offset: int, begin: int, rows: int, window: int | None) -> None:
        start = offset + begin
        self.begin, self.rows = begin, rows
        self.first = 0 if window is None else max(0, start - window + 1)
        self.height = max(16, 1 << (rows - 1).bit_length())
        self.width = _padded_rows(max(16, start + self.height - self.first))

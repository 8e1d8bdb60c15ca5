"""Where the tokens of one step lie: what attention and the cache write need beside q, k and v.

The T tokens of a step are flattened. The first `num_decode` rows are sequences with one new
token each; after them come the prefill chunks, one after the other. Built once per step by the
runner, read by every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from baton.protocol.kvlayout import KVLayout


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Several consecutive tokens of one sequence."""

    start: int
    """Row of its first token."""
    length: int
    context: int
    """Tokens of the sequence up to and including this chunk."""
    blocks: Tensor
    """int32 [ceil(context / block_size)], block ids in order of the sequence."""


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    positions: Tensor
    """int64 [T], position of each token in its sequence."""
    slots: Tensor
    """int64 [T], block id * block_size + offset in the block: where its KV goes."""
    num_decode: int
    block_tables: Tensor
    """int32 [num_decode, max_blocks], rows padded with block 0."""
    context_lens: Tensor
    """int32 [num_decode], tokens to attend to, the new one included."""
    host_context_lens: tuple[int, ...]
    """The same, readable without waiting for the device."""
    prefills: tuple[PrefillChunk, ...]
    memo: dict[object, Tensor] = field(default_factory=dict)
    """Tensors that layers share; filled by `once`."""

    @property
    def max_context(self) -> int:
        """Longest context among the decode rows, 0 without any."""
        return max(self.host_context_lens, default=0)

    def once(self, key: object, compute: Callable[[], Tensor]) -> Tensor:
        """`compute()` at the first call with this key, its result at every later one."""
        value = self.memo.get(key)
        if value is None:
            value = self.memo[key] = compute()
        return value


@dataclass(frozen=True, slots=True)
class LayerKV:
    """The cache of one layer: views into the pool, no memory of their own."""

    keys: Tensor
    """[num_blocks, kv_heads, block_size, head_dim], strides as the layout says."""
    values: Tensor
    """The same shape."""

    @property
    def block_size(self) -> int:
        return self.keys.shape[2]


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What is fixed for one attention layer."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    """A token attends to itself and the `window - 1` tokens before it; None: to all."""


def layer_views(pool: Tensor, layout: KVLayout) -> tuple[LayerKV, ...]:
    """`pool` is [num_blocks, *layout.shape], contiguous. One LayerKV per layer."""
    strides = layout.strides()
    size = (pool.shape[0], layout.num_kv_heads, layout.block_size, layout.head_dim)
    stride = (layout.block_elements, strides["head"], strides["token"], strides["dim"])

    def view(layer: int, kv: int) -> Tensor:
        offset = layer * strides["layer"] + kv * strides["kv"]
        return pool.as_strided(size, stride, pool.storage_offset() + offset)

    return tuple(LayerKV(view(n, 0), view(n, 1)) for n in range(layout.num_layers))


def visible(query_positions: Tensor, num_keys: int, window: int | None) -> Tensor:
    """bool [Q, num_keys]: may the query at each position attend to the key at each position?"""
    keys = torch.arange(num_keys, device=query_positions.device)
    distance = query_positions[:, None] - keys[None, :]
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


def split_qkv(qkv: Tensor, shape: AttentionShape) -> Sequence[Tensor]:
    """[T, (heads + 2 kv_heads) * dim] to views q, k, v of [T, heads or kv_heads, dim]."""
    heads, kv_heads = shape.num_heads, shape.num_kv_heads
    rows = qkv.view(qkv.shape[0], -1, shape.head_dim)
    return torch.split(rows, [heads, kv_heads, kv_heads], dim=1)

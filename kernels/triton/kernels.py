"""The Triton kernels themselves. Pointers and strides in, no torch logic; `ops.py` launches them.

Written for one program per row (norm), per token and head (cache write), and per row and KV head
(decode attention): simple shapes that fit any head size and any order of the cache's axes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rms_norm_kernel(  # type: ignore[no-untyped-def]
    x_ptr, residual_ptr, weight_ptr, out_ptr,
    row_stride, inner_stride, inner, size, eps,
    ADD: tl.constexpr, BLOCK: tl.constexpr,
):
    """One row of `size` elements; row r starts at (r // inner) * row_stride + (r % inner) *
    inner_stride of x. With ADD, x + residual is stored to residual first. residual and out are
    contiguous."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < size
    start = (row // inner) * row_stride + (row % inner) * inner_stride
    x = tl.load(x_ptr + start + columns, mask=mask, other=0.0)
    if ADD:
        x = x + tl.load(residual_ptr + row * size + columns, mask=mask, other=0.0)
        tl.store(residual_ptr + row * size + columns, x, mask=mask)
    wide = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / size + eps)
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0)
    normed = (wide * scale).to(x.dtype) * weight
    tl.store(out_ptr + row * size + columns, normed, mask=mask)


@triton.jit
def silu_and_mul_kernel(gate_up_ptr, out_ptr, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row program_id(0) of [T, 2 * size], columns from program_id(1) * BLOCK on."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < size
    gate = tl.load(gate_up_ptr + row * 2 * size + columns, mask=mask, other=0.0)
    up = tl.load(gate_up_ptr + row * 2 * size + size + columns, mask=mask, other=0.0)
    wide = gate.to(tl.float32)
    out = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype) * up
    tl.store(out_ptr + row * size + columns, out, mask=mask)


@triton.jit
def rotate_write_kernel(  # type: ignore[no-untyped-def]
    qkv_ptr, cos_ptr, sin_ptr, slots_ptr, keys_ptr, values_ptr,
    qkv_stride, stride_block, stride_head, stride_token, stride_dim,
    num_heads, num_kv_heads, block_size,
    HALF: tl.constexpr, BLOCK: tl.constexpr,
):
    """One head of one token: rotate q in place, rotate k into the cache, copy v into the cache.
    program_id(1) counts the q heads, then the k heads, then the v heads."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    mask = columns < HALF
    source = qkv_ptr + token * qkv_stride + head * (2 * HALF)
    first = tl.load(source + columns, mask=mask, other=0.0)
    second = tl.load(source + HALF + columns, mask=mask, other=0.0)
    slot = tl.load(slots_ptr + token)
    place = (slot // block_size) * stride_block + (slot % block_size) * stride_token
    if head < num_heads + num_kv_heads:
        cos = tl.load(cos_ptr + token * HALF + columns, mask=mask, other=0.0)
        sin = tl.load(sin_ptr + token * HALF + columns, mask=mask, other=0.0)
        a, b = first.to(tl.float32), second.to(tl.float32)
        first = (a * cos - b * sin).to(first.dtype)
        second = (b * cos + a * sin).to(second.dtype)
    if head < num_heads:
        tl.store(source + columns, first, mask=mask)
        tl.store(source + HALF + columns, second, mask=mask)
    elif head < num_heads + num_kv_heads:
        target = keys_ptr + place + (head - num_heads) * stride_head
        tl.store(target + columns * stride_dim, first, mask=mask)
        tl.store(target + (HALF + columns) * stride_dim, second, mask=mask)
    else:
        target = values_ptr + place + (head - num_heads - num_kv_heads) * stride_head
        tl.store(target + columns * stride_dim, first, mask=mask)
        tl.store(target + (HALF + columns) * stride_dim, second, mask=mask)


@triton.jit
def decode_attention_kernel(  # type: ignore[no-untyped-def]
    q_ptr, keys_ptr, values_ptr, out_ptr, tables_ptr, lens_ptr,
    q_stride, stride_block, stride_head, stride_token, stride_dim, table_stride,
    scale, window, group, dim,
    BLOCK_SIZE: tl.constexpr, TOKENS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr,
):
    """One sequence and KV head, the `group` query heads that share it: softmax over the context
    in one pass, TOKENS keys at a time, with a running maximum. `window` 0 means the whole
    context. Sums in float32."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    groups = tl.arange(0, GROUP)
    dims = tl.arange(0, DIM)
    q_mask = (groups < group)[:, None] & (dims < dim)[None, :]
    q_offset = row * q_stride + (head * group + groups)[:, None] * dim + dims[None, :]
    q = tl.load(q_ptr + q_offset, mask=q_mask, other=0.0).to(tl.float32) * scale

    context = tl.load(lens_ptr + row)
    first = 0
    if window > 0:
        first = tl.maximum(context - window, 0)
    largest = tl.full([GROUP], float("-inf"), tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    result = tl.zeros([GROUP, DIM], tl.float32)
    for start in range((first // TOKENS) * TOKENS, context, TOKENS):
        tokens = start + tl.arange(0, TOKENS)
        seen = (tokens >= first) & (tokens < context)
        block = tl.load(
            tables_ptr + row * table_stride + tokens // BLOCK_SIZE, mask=seen, other=0
        ).to(tl.int64)
        place = block * stride_block + (tokens % BLOCK_SIZE) * stride_token + head * stride_head
        offset = place[:, None] + dims[None, :] * stride_dim
        kv_mask = seen[:, None] & (dims < dim)[None, :]
        keys = tl.load(keys_ptr + offset, mask=kv_mask, other=0.0).to(tl.float32)
        values = tl.load(values_ptr + offset, mask=kv_mask, other=0.0).to(tl.float32)
        scores = tl.sum(q[:, None, :] * keys[None, :, :], axis=2)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        shrink = tl.exp(largest - new_largest)
        weights = tl.exp(scores - new_largest[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        result = result * shrink[:, None] + tl.sum(
            weights[:, :, None] * values[None, :, :], axis=1
        )
        largest = new_largest
    result = result / total[:, None]
    out_offset = (row * tl.num_programs(1) + head) * group * dim
    tl.store(
        out_ptr + out_offset + groups[:, None] * dim + dims[None, :],
        result.to(out_ptr.dtype.element_ty),
        mask=q_mask,
    )

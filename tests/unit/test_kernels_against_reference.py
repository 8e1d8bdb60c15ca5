"""Every backend against the reference, on the same shapes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from baton.kernels.attention_batch import AttentionBatch, AttentionShape, PrefillChunk, layer_views
from baton.kernels.cpu import CpuOps
from baton.kernels.native.ops import native_ops
from baton.kernels.ops import Ops
from baton.kernels.reference import ReferenceOps
from baton.protocol.kvlayout import AXES, KVLayout

AXIS_ORDERS = [
    AXES,
    ("layer", "token", "kv", "head", "dim"),
    ("head", "layer", "kv", "dim", "token"),
]
SHAPES = [
    AttentionShape(4, 4, 16, 0.25, None),
    AttentionShape(6, 2, 24, 0.2, None),
    AttentionShape(5, 1, 80, 0.1, None),
    AttentionShape(9, 3, 64, 0.125, None),
    AttentionShape(9, 3, 64, 0.125, 13),
]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}


def cpu_ops(name: str, dtype: torch.dtype) -> Ops:
    if name == "torch":
        return CpuOps()
    ops = native_ops(dtype)
    if ops is None:
        pytest.skip("the C kernels cannot be built here")
    return ops


@dataclass
class Case:
    pool: Tensor
    layout: KVLayout
    batch: AttentionBatch
    qkv: Tensor
    cos: Tensor
    sin: Tensor


def make_case(
    shape: AttentionShape, axes: tuple[str, ...], dtype: torch.dtype, device: str = "cpu"
) -> Case:
    """Decode rows with contexts 1, 17, 40 and 64, then chunks of 6 tokens at 0 and at 30, in
    scattered blocks."""
    generator = torch.Generator().manual_seed(11)
    block_size, layers = 8, 2
    name = str(dtype).removeprefix("torch.")
    layout = KVLayout(layers, shape.num_kv_heads, shape.head_dim, block_size, name, axes)
    decodes, chunks = [1, 17, 40, 64], [(6, 6), (6, 36)]
    contexts = decodes + [context for _, context in chunks]
    free = torch.randperm(40, generator=generator).tolist()
    pool = torch.zeros(40, *layout.shape, dtype=dtype)
    views = layer_views(pool, layout)
    owned = [[free.pop() for _ in range(layout.blocks_for(context))] for context in contexts]
    for context, blocks in zip(contexts, owned, strict=True):
        for position in range(context):
            for view in views:
                for cache in (view.keys, view.values):
                    cache[blocks[position // block_size], :, position % block_size] = torch.randn(
                        shape.num_kv_heads, shape.head_dim, generator=generator
                    ).to(dtype)
    width = max(layout.blocks_for(context) for context in decodes)
    tables = torch.zeros(len(decodes), width, dtype=torch.int32)
    positions, slots, prefills = [], [], []
    for row, context in enumerate(decodes):
        tables[row, : len(owned[row])] = torch.tensor(owned[row])
        positions.append(context - 1)
        slots.append(owned[row][(context - 1) // block_size] * block_size + (context - 1) % 8)
    start = len(decodes)
    for (length, context), blocks in zip(chunks, owned[len(decodes) :], strict=True):
        prefills.append(
            PrefillChunk(
                start, length, context, torch.tensor(blocks, dtype=torch.int32, device=device)
            )
        )
        for position in range(context - length, context):
            positions.append(position)
            slots.append(blocks[position // block_size] * block_size + position % block_size)
        start += length
    where = torch.tensor(positions)
    angle = where[:, None] * torch.rand(shape.head_dim // 2, generator=generator)
    heads = shape.num_heads + 2 * shape.num_kv_heads
    qkv = torch.randn(start, heads * shape.head_dim, generator=generator).to(dtype)
    batch = AttentionBatch(
        positions=where.to(device),
        slots=torch.tensor(slots).to(device),
        num_decode=len(decodes),
        block_tables=tables.to(device),
        context_lens=torch.tensor(decodes, dtype=torch.int32, device=device),
        host_context_lens=tuple(decodes),
        prefills=tuple(prefills),
    )
    cos, sin = angle.cos().to(device), angle.sin().to(device)
    return Case(pool.to(device), layout, batch, qkv.to(device), cos, sin)


def check_attention(
    ops: Ops, shape: AttentionShape, axes: tuple[str, ...], dtype: torch.dtype, device: str = "cpu"
) -> None:
    """Output and cache agree with the reference."""
    pools, outputs = [], []
    for candidate in (ReferenceOps(), ops):
        case = make_case(shape, axes, dtype, device)
        kv = layer_views(case.pool, case.layout)[1]
        outputs.append(
            candidate.attention(case.qkv, case.cos, case.sin, kv, case.batch, shape).float()
        )
        pools.append(case.pool.float())
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(pools[1], pools[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=tolerance, atol=tolerance)


def check_elementwise(ops: Ops, dtype: torch.dtype, device: str = "cpu") -> None:
    reference, tolerance = ReferenceOps(), TOLERANCE[dtype]
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).to(device)

    for rows, size in ((1, 16), (5, 72), (17, 576)):
        x, residual, weight = random(rows, size), random(rows, size), random(size)
        pairs = [
            (ops.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5)),
            *zip(
                ops.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5),
                reference.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5),
                strict=True,
            ),
            (ops.silu_and_mul(random(0, size)), reference.silu_and_mul(random(0, size))),
        ]
        wide = random(rows, 2 * size)
        pairs.append((ops.silu_and_mul(wide), reference.silu_and_mul(wide)))
        heads = random(rows, 6 * 24).view(rows, 6, 24)[:, 1:4]
        head_weight = random(24)
        pairs.append(
            (ops.rms_norm(heads, head_weight, 1e-6), reference.rms_norm(heads, head_weight, 1e-6))
        )
        matrix, bias = random(40, size), random(40)
        for own_bias in (None, bias):
            pairs.append(
                (
                    ops.pack_linear(matrix, own_bias)(x),
                    reference.pack_linear(matrix, own_bias)(x),
                )
            )
        for got, expected in pairs:
            torch.testing.assert_close(
                got.float(), expected.float(), rtol=tolerance, atol=tolerance * max(1, size**0.5)
            )


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("axes", AXIS_ORDERS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention(
    shape: AttentionShape, axes: tuple[str, ...], dtype: torch.dtype, backend: str
) -> None:
    check_attention(cpu_ops(backend, dtype), shape, axes, dtype)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_elementwise(dtype: torch.dtype, backend: str) -> None:
    check_elementwise(cpu_ops(backend, dtype), dtype)


@pytest.mark.parametrize("window", [None, 100, 400])
@pytest.mark.parametrize("offset", [0, 37])
def test_long_prefill_in_bfloat16(offset: int, window: int | None) -> None:
    """Chunks longer than a tile, over scattered blocks."""
    generator = torch.Generator().manual_seed(2)
    shape = AttentionShape(6, 2, 32, 0.18, window)
    layout = KVLayout(1, 2, 32, 16, "bfloat16")
    length = 300
    context = length + offset
    blocks = torch.randperm(30, generator=generator)[: layout.blocks_for(context)].int()
    pool = torch.randn(30, *layout.shape, generator=generator).bfloat16()
    kv = layer_views(pool, layout)[0]
    q = torch.randn(length, 6, 32, generator=generator).bfloat16()
    none = torch.zeros(0, dtype=torch.int32)
    batch = AttentionBatch(
        positions=torch.arange(offset, context),
        slots=none.long(),
        num_decode=0,
        block_tables=none.view(0, 0),
        context_lens=none,
        host_context_lens=(),
        prefills=(PrefillChunk(0, length, context, blocks),),
    )
    expected = ReferenceOps().attend(q, kv, batch, shape)
    got = CpuOps().attend(q, kv, batch, shape)
    torch.testing.assert_close(got, expected, rtol=4e-2, atol=2e-2)


@pytest.mark.timeout(300)
def test_triton_interpreted() -> None:
    """Triton's interpreter must be chosen before its import, hence a process of its own."""
    script = (
        "import importlib.util, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "spec = importlib.util.spec_from_file_location('shared_checks', sys.argv[1])\n"
        "checks = importlib.util.module_from_spec(spec)\n"
        "sys.modules['shared_checks'] = checks\n"
        "spec.loader.exec_module(checks)\n"
        "from baton.kernels.triton.ops import TritonOps\n"
        "ops = TritonOps()\n"
        "checks.check_elementwise(ops, torch.float32)\n"
        "for shape in checks.SHAPES[1:]:\n"
        "    checks.check_attention(ops, shape, checks.AXES, torch.float32)\n"
        "checks.check_attention(ops, checks.SHAPES[1], checks.AXIS_ORDERS[2], torch.float32)\n"
        "checks.check_attention(ops, checks.SHAPES[1], checks.AXES, torch.bfloat16)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("axes", AXIS_ORDERS, ids="-".join)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_triton_on_a_gpu(
    shape: AttentionShape, axes: tuple[str, ...], dtype: torch.dtype
) -> None:
    from baton.kernels.triton.ops import TritonOps

    check_attention(TritonOps(), shape, axes, dtype, "cuda")
    check_elementwise(TritonOps(), dtype, "cuda")

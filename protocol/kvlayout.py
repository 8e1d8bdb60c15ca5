"""The layout of a KV block, as a value that kernels and copy planner take strides from."""

from __future__ import annotations

from math import prod

import msgspec

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

AXES = ("layer", "kv", "head", "token", "dim")


class KVLayout(msgspec.Struct, frozen=True, array_like=True):
    """One block is one contiguous span of `block_size` tokens of every layer.

    `axes` orders it from the slowest to the fastest axis; "kv" has extent 2 (key, value).
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: str
    axes: tuple[str, ...] = AXES

    def __post_init__(self) -> None:
        if sorted(self.axes) != sorted(AXES):
            raise ValueError(f"axes must be an order of {AXES}, got {self.axes}")
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"KV dtype must be one of {sorted(DTYPE_BYTES)}, got {self.dtype!r}")

    def extent(self, axis: str) -> int:
        """Number of entries along one axis."""
        return {
            "layer": self.num_layers,
            "kv": 2,
            "head": self.num_kv_heads,
            "token": self.block_size,
            "dim": self.head_dim,
        }[axis]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents in memory order, slowest first."""
        return tuple(self.extent(axis) for axis in self.axes)

    @property
    def block_elements(self) -> int:
        return prod(self.shape)

    @property
    def block_bytes(self) -> int:
        return self.block_elements * DTYPE_BYTES[self.dtype]

    def strides(self) -> dict[str, int]:
        """Elements between neighbours along each axis, within one block."""
        strides: dict[str, int] = {}
        step = 1
        for axis in reversed(self.axes):
            strides[axis] = step
            step *= self.extent(axis)
        return strides

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-tokens // self.block_size)

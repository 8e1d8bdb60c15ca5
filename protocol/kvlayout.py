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


def why_unmappable(
    source: KVLayout,
    destination: KVLayout,
    source_heads: range | None = None,
    destination_heads: range | None = None,
) -> str | None:
    """Why blocks of `source` cannot be copied exactly into blocks of `destination`, by name; None
    when they can. Another block size and another order of axes are no hindrance: they only move
    bytes. `..._heads`: which KV heads of the model each side holds, all from 0 on by default; the
    source must hold those of the destination. Raises ValueError for a range of another length."""
    source_heads = _heads(source, source_heads)
    destination_heads = _heads(destination, destination_heads)
    for what, ours, theirs in (
        ("dtype", source.dtype, destination.dtype),
        ("number of layers", source.num_layers, destination.num_layers),
        ("head dimension", source.head_dim, destination.head_dim),
    ):
        if ours != theirs:
            return f"the {what} differs: {ours} at the source, {theirs} at the destination"
    if (
        destination_heads.start < source_heads.start or destination_heads.stop > source_heads.stop
    ):
        return (
            f"KV heads {destination_heads.start} to {destination_heads.stop - 1} are wanted, the "
            f"source has {source_heads.start} to {source_heads.stop - 1}"
        )
    return None


def _heads(layout: KVLayout, heads: range | None) -> range:
    if heads is None:
        return range(layout.num_kv_heads)
    if len(heads) != layout.num_kv_heads or heads.step != 1:
        raise ValueError(f"{heads} are not the {layout.num_kv_heads} KV heads of the layout")
    return heads

"""The memory of a block pool, as the mover needs it: on a host, or on a device.

| memory | one block | several blocks as one message |
|---|---|---|
| host | in place | in place (`Rows`), or through a staging buffer |
| device | in place, where the transport reaches it | through a staging buffer on the host |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from baton.kvtransfer.transport import Buffer, Bytes, Rows


class Blocks(Protocol):
    """Blocks 0 to n - 1 of `block_bytes` each. Everything raises IndexError for others."""

    block_bytes: int
    scatters: bool
    """Several blocks may travel as one message without a staging buffer."""

    def part(self, start: int, stop: int) -> Blocks:
        """The same blocks, of which only the bytes from `start` to before `stop` count."""

    def block(self, index: int) -> Buffer: ...

    def rows(self, indexes: Sequence[int]) -> Rows: ...

    def gather(self, indexes: Sequence[int], out: Bytes) -> None:
        """Copy these blocks one after the other into `out`, which holds exactly them."""

    def scatter(self, indexes: Sequence[int], source: Bytes) -> None:
        """The other way."""


def blocks_of(memory: Any) -> Blocks:
    """`memory`: uint8 [blocks, block bytes], a numpy array or a torch tensor."""
    return HostBlocks(memory) if isinstance(memory, np.ndarray) else DeviceBlocks(memory)


class HostBlocks:
    scatters = True

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory
        self._address: int = memory.__array_interface__["data"][0]
        self.block_bytes = int(memory.shape[1])

    def __len__(self) -> int:
        return len(self._memory)

    def part(self, start: int, stop: int) -> HostBlocks:
        return HostBlocks(self._memory[:, start:stop])

    def block(self, index: int) -> Bytes:
        if not 0 <= index < len(self._memory):
            raise IndexError(f"block {index} is outside 0..{len(self._memory) - 1}")
        row: Bytes = self._memory[index]
        return row

    def rows(self, indexes: Sequence[int]) -> Rows:
        return Rows(self._memory, indexes, self._address)

    def gather(self, indexes: Sequence[int], out: Bytes) -> None:
        rows = self.rows(indexes)
        target = out.reshape(len(rows.indexes), self.block_bytes)
        if self._memory.flags.c_contiguous:
            # "clip" writes straight into `out`; "raise" would go through a copy. Rows are checked.
            np.take(self._memory, rows.indexes, axis=0, out=target, mode="clip")
        else:  # parts of blocks, where `take` would first make a copy of the whole pool
            target[...] = self._memory[rows.indexes]

    def scatter(self, indexes: Sequence[int], source: Bytes) -> None:
        rows = self.rows(indexes)
        self._memory[rows.indexes] = source.reshape(len(rows.indexes), self.block_bytes)


class DeviceBlocks:
    """A torch tensor, on whatever device; each copy is over when the call returns."""

    scatters = False

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.block_bytes = int(memory.shape[1])

    def part(self, start: int, stop: int) -> DeviceBlocks:
        return DeviceBlocks(self._memory[:, start:stop])

    def block(self, index: int) -> Any:
        if not 0 <= index < len(self._memory):
            raise IndexError(f"block {index} is outside 0..{len(self._memory) - 1}")
        return self._memory[index]

    def rows(self, indexes: Sequence[int]) -> Rows:
        raise ValueError("device memory cannot be scattered or gathered in place")

    def gather(self, indexes: Sequence[int], out: Bytes) -> None:
        chosen = self._memory.index_select(0, self._indexes(indexes))
        _as_tensor(out, len(indexes)).copy_(chosen)

    def scatter(self, indexes: Sequence[int], source: Bytes) -> None:
        landed = _as_tensor(source, len(indexes)).to(self._memory.device)
        self._memory.index_copy_(0, self._indexes(indexes), landed)

    def _indexes(self, indexes: Sequence[int]) -> Any:
        import torch

        if min(indexes) < 0 or max(indexes) >= len(self._memory):
            raise IndexError(f"blocks {indexes} are not all within 0..{len(self._memory) - 1}")
        return torch.tensor(indexes, dtype=torch.int64, device=self._memory.device)


def _as_tensor(buffer: Bytes, rows: int) -> Any:
    import torch

    return torch.from_numpy(buffer.reshape(rows, -1))

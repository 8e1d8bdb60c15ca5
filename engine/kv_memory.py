"""The memory of the KV block pool: one tensor, allocated once, owned by the engine thread.

Which block belongs to whom is the block pool's business; this is only the bytes. The transport
gets the same memory through `block_buffer`, without a copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from baton.kernels.attention_batch import LayerKV, layer_views
from baton.protocol.errors import ConfigError
from baton.protocol.kvlayout import KVLayout
from baton.protocol.units import format_bytes


class KVMemory:
    """`tensor` is [num_blocks, *layout.shape]. On a CPU its pages are touched at first use, and
    every byte reads as zero until written."""

    def __init__(self, layout: KVLayout, num_blocks: int, device: torch.device | str) -> None:
        """Raises ConfigError when the memory is not there."""
        self.layout = layout
        self.num_blocks = num_blocks
        self.device = torch.device(device)
        dtype: torch.dtype = getattr(torch, layout.dtype)
        size = num_blocks * layout.block_bytes
        try:
            if self.device.type == "cpu":
                # numpy's zeros come lazily from the operating system; torch's touch every page.
                flat = torch.from_numpy(np.zeros(size, np.uint8))
            else:
                flat = torch.zeros(size, dtype=torch.uint8, device=self.device)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ConfigError(
                f"{num_blocks} KV blocks need {format_bytes(size)}, which this device does not "
                "have: ask for fewer"
            ) from error
        self.tensor: Tensor = flat.view(dtype).view(num_blocks, *layout.shape)
        self._bytes = flat.view(num_blocks, layout.block_bytes)
        self.layer_views: tuple[LayerKV, ...] = layer_views(self.tensor, layout)

    @property
    def rows(self) -> Any:
        """All blocks as bytes, [num_blocks, block_bytes]: a numpy uint8 view, or on a GPU a uint8
        tensor."""
        return self._bytes.numpy() if self.device.type == "cpu" else self._bytes

    def block_buffer(self, block_id: int) -> Any:
        """One block's bytes, contiguous and writable: a numpy uint8 view, or on a GPU a uint8
        tensor, which offers `__cuda_array_interface__`. Raises IndexError outside the pool."""
        if not 0 <= block_id < self.num_blocks:
            raise IndexError(f"block {block_id} is outside 0..{self.num_blocks - 1}")
        row = self._bytes[block_id]
        return row.numpy() if self.device.type == "cpu" else row

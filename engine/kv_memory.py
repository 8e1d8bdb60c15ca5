"""The memory of the KV block pool: one tensor, allocated once, owned by the engine thread.

Which block belongs to whom is the block pool's business; this is only the bytes. The transport
gets the same memory through `block_buffer`, without a copy.

On a CPU it is memory that other processes of the host may map, so that whoever is handed blocks
copies them from here itself. The system gives such memory out in small pages, which cost steps and
copies more than large ones; so `keep_ahead` has large ones made before they are needed, a little
ahead of what is in use: the pool gives out its lowest free blocks first.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baton.kernels.attention_batch import LayerKV, layer_views
from baton.kernels.shared_memory import SharedMemory
from baton.protocol.errors import ConfigError
from baton.protocol.kvlayout import KVLayout
from baton.protocol.units import format_bytes

log = logging.getLogger(__name__)


HUGE_PAGES_AHEAD = 64 << 20
"""Bytes of the pool, beyond the highest block in use."""


class KVMemory:
    """`tensor` is [num_blocks, *layout.shape]. On a CPU its pages come when they are used, or
    shortly before, and every byte reads as zero until written."""

    def __init__(self, layout: KVLayout, num_blocks: int, device: torch.device | str) -> None:
        """Raises ConfigError when the memory is not there."""
        self.layout = layout
        self.num_blocks = num_blocks
        self.device = torch.device(device)
        dtype: torch.dtype = getattr(torch, layout.dtype)
        size = num_blocks * layout.block_bytes
        self._shared: SharedMemory | None = None
        self._ahead: threading.Thread | None = None
        try:
            if self.device.type == "cpu":
                flat = torch.from_numpy(self._host_bytes(size))
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

    def _host_bytes(self, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        try:
            self._shared = SharedMemory(size)
        except OSError as error:
            log.warning("KV memory cannot be shared with other processes of this host: %s", error)
            # numpy's zeros come lazily from the operating system; torch's touch every page.
            return np.zeros(size, np.uint8)
        return self._shared.array

    def keep_ahead(self, blocks_in_use: int) -> None:
        """Have large pages for so many blocks and some more, from now on: on a thread, for it
        takes a millisecond for 2 MiB where the machine itself has to find the memory first.
        Nothing happens where there is nothing to do, or it is being done."""
        shared = self._shared
        if shared is None or (self._ahead is not None and self._ahead.is_alive()):
            return
        wanted = min(blocks_in_use * self.layout.block_bytes + HUGE_PAGES_AHEAD, shared.size)
        if shared.wants_huge_pages(wanted):
            self._ahead = threading.Thread(
                target=shared.use_huge_pages, args=(wanted,), name="kv pages", daemon=True
            )
            self._ahead.start()

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

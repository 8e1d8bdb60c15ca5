"""Staging buffers: allocated once, bounded, waited for in order.

    free -> taken -> given back -> free
              |
              +-> lost: its message was given up, but the transport may still write into it
                    -> given back, should the message come
                    -> forgotten, when the sender is known to be gone; UCX alone keeps it then

Others are allocated in place of lost ones, so that a sender that has stopped does not stop the
rest, up to as many again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from baton.kernels.shared_memory import shared_bytes
from baton.kvtransfer.transport import Bytes

STAGING_BYTES = 1 << 20
"""Of one buffer, unless a single block is larger. Two of them stay in a core's cache."""


LARGE_MESSAGE = 4 << 20
PULLED_MESSAGE = 16 << 20
"""The largest messages that schemes ask for, unless a single block is larger. What is pulled needs
no parts to be sent and received at once, and each message costs the sender some microseconds."""


class StagingBuffers:
    """At most `count` buffers of `size` bytes, and as many in place of lost ones."""

    def __init__(self, size: int, count: int, *, shared: bool = False) -> None:
        """`shared`: others on this host may map them."""
        self.size = size
        self._count = count
        self._shared = shared
        self._free: list[Bytes] = []
        self._allocated = 0
        self._lost = 0
        self._waiting: deque[Callable[[Bytes], None]] = deque()

    @property
    def allocated_bytes(self) -> int:
        return self._allocated * self.size

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self, use: Callable[[Bytes], None]) -> None:
        """Call `use(buffer)` now, or when one is given back, after those who wait already."""
        self._waiting.append(use)
        self._serve()

    def give_back(self, buffer: Bytes, *, was_lost: bool = False) -> None:
        self._lost -= was_lost
        if self._allocated - self._lost > self._count:
            self._allocated -= 1  # its replacement goes on in its place
        else:
            self._free.append(buffer)
        self._serve()

    def lose(self) -> None:
        """A taken buffer may stay with the transport for long."""
        self._lost += 1
        self._serve()

    def forget(self, *, was_lost: bool) -> None:
        """A taken buffer never comes back."""
        self._lost -= was_lost
        self._allocated -= 1
        self._serve()

    def check_integrity(self) -> None:
        """Nothing is taken, lost or waited for."""
        assert self._lost == 0, f"{self._lost} staging buffers are lost"
        assert not self._waiting, f"{len(self._waiting)} wait for a staging buffer"
        taken = self._allocated - len(self._free)
        assert taken == 0, f"{taken} staging buffers are still taken"

    def _serve(self) -> None:
        while self._waiting:
            if self._free:
                buffer = self._free.pop()
            elif self._may_allocate():
                self._allocated += 1
                buffer = shared_bytes(self.size) if self._shared else np.empty(self.size, np.uint8)
            else:
                return
            self._waiting.popleft()(buffer)

    def _may_allocate(self) -> bool:
        lost = min(self._lost, self._count)
        return self._allocated - lost < self._count

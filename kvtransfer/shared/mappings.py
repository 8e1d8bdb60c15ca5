"""Memory of a sender, mapped here to be read.

    told of -> mapped -> no longer offered, or the connection ended: unmapped, once no copy reads it
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from baton.kernels.shared_memory import Mapping, is_sealed

log = logging.getLogger(__name__)


class SenderMemory:
    """`readers`: the copies under way that read it."""

    def __init__(self, mapping: Mapping) -> None:
        self.address, self.size = mapping.address, mapping.size
        self._mapping = mapping
        self._readers = 0
        self._unwanted = False

    def begin(self) -> None:
        self._readers += 1

    def end(self) -> None:
        self._readers -= 1
        self._unmap()

    def give_up(self) -> None:
        """Unmapped as soon as nobody reads it."""
        self._unwanted = True
        self._unmap()

    def _unmap(self) -> None:
        if self._unwanted and not self._readers:
            self._mapping.close()


def map_memory(size: int, fds: Sequence[int]) -> SenderMemory | None:
    """The memory behind this one descriptor, which is closed. None, and a line in the log, where
    it cannot be mapped, or could shrink under a reader."""
    try:
        if len(fds) != 1:
            log.warning("a sender's memory came with %d descriptors", len(fds))
        elif not is_sealed(fds[0]) or not 0 < size <= os.fstat(fds[0]).st_size:
            log.warning("a sender's memory of %d bytes could shrink, or is smaller", size)
        else:
            return SenderMemory(Mapping(fds[0], size, writable=False))
    except OSError as error:
        log.warning("a sender's memory cannot be mapped, so it comes over UCX: %s", error)
    finally:
        for fd in fds:
            os.close(fd)
    return None

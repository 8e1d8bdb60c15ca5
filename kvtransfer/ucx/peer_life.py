"""Learning from the kernel that a process of this host has died.

Over shared memory UCX notices only when it next signals the peer, and a large send whose peer
died before answering would stay pending for ever.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from baton.kvtransfer.ucx.address import UcxAddress, pid_namespace, process_start


class PeerLife:
    """Calls `on_death()` once, from the loop, when the process dies. Does nothing where process
    numbers cannot be compared (another PID namespace) or for our own process."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, peer: UcxAddress, on_death: Callable[[], None]
    ) -> None:
        """Raises ConnectionError if the process is gone already."""
        self._loop = loop
        self._on_death = on_death
        self._fd = -1
        if peer.pid == os.getpid() or peer.pid_namespace != pid_namespace():
            return
        try:
            fd = os.pidfd_open(peer.pid)
        except ProcessLookupError as error:
            raise ConnectionError(f"process {peer.pid} is gone") from error
        try:
            # Checked after opening: from here on the number cannot go to another process.
            same = process_start(peer.pid) == peer.started
        except ProcessLookupError:
            same = False
        if not same:
            os.close(fd)
            raise ConnectionError(f"process {peer.pid} is gone; its number was given anew")
        self._fd = fd
        loop.add_reader(fd, self._died)

    def _died(self) -> None:
        self.close()
        self._on_death()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

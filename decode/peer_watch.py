"""Is the process that may still write into our blocks gone?

On the same host the kernel knows: the process with this id, started at this moment, exists or
not. Of a peer on another host only its connection is known; its blocks stay quarantined until
the operations complete, which the transport's own error handling sees to.
"""

from __future__ import annotations

from pathlib import Path

from baton.protocol.ids import Identity, host_id


class PeerWatch:
    """Remembers which process each peer identity was."""

    def __init__(self) -> None:
        self._here = host_id()
        self._processes: dict[Identity, tuple[int, str | None]] = {}

    def met(self, peer: Identity, host: str, pid: int) -> None:
        if host == self._here:
            self._processes[peer] = (pid, _start_time(pid))

    def is_gone(self, peer: Identity) -> bool:
        """True only when it is known to be."""
        if peer not in self._processes:
            return False
        pid, started = self._processes[peer]
        return _start_time(pid) != started


def _start_time(pid: int) -> str | None:
    """Clock ticks from boot to the start of a process; None when there is none, or it is a
    zombie, which runs no code any more."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]

"""A child never outlives its launcher, however that ended.

Two independent means, because each has a hole: the end of file on an inherited pipe is seen by a
thread, which a process stuck in native code may never run; the kernel's parent-death signal
cannot be caught or missed, but is not set yet in the first moments of a child.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Ask the kernel for `signum` when the parent (its spawning thread) ends. Linux only;
    elsewhere nothing happens and the pipe is all there is."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        log.warning("no parent-death signal: %s", os.strerror(error))


def adopt_orphans() -> bool:
    """Children's children become ours when their parent ends. False where there is no such
    thing (it is Linux's)."""
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def watch(fd: int, on_loss: Callable[[], None] | None = None) -> threading.Thread:
    """Read `fd` until its end, which the launcher's death brings; then call `on_loss` (clean up,
    quickly) and end the process without further ado. Owns `fd` from here on."""

    def wait_for_end() -> None:
        try:
            while os.read(fd, 4096):
                pass
        except OSError as error:
            log.warning("the launcher's pipe broke: %s", error)
        try:
            if on_loss is not None:
                on_loss()
        finally:
            os._exit(1)

    thread = threading.Thread(target=wait_for_end, name="lifeline", daemon=True)
    thread.start()
    return thread

"""Learning from the kernel that a process of this host has died.

    watching --pidfd readable, or gone when polled--> dead: `on_death` called, once
        +----close----> closed: never called

A connection tells of its end late and ambiguously: behind a relay, over shared memory or while the
peer is stopped it says nothing, and a reconnect may be under way. The kernel knows at once and for
certain. Processes of another host or PID namespace cannot be asked about; nor is our own.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable

from baton.protocol.ids import ProcessRef, process_space, process_start

LAST_WORDS = 0.005
"""Seconds that a session still hears what a process said before it died: tokens that need not be
computed again, and receipts."""
POLL_SECONDS = 0.05
"""Where the kernel gives no pidfd (none before Linux 5.3; some sandboxes)."""


class ProcessWatch:
    """Calls `on_death()` once, from the loop, when the process is gone; soon, when it is already.
    Made on the loop's thread. Costs one descriptor."""

    def __init__(
        self,
        process: ProcessRef,
        on_death: Callable[[], None],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._process = process
        self._on_death = on_death
        self._loop = loop or asyncio.get_running_loop()
        self._pidfd: int | None = None
        self._handle: asyncio.Handle | None = None
        self.gone = False
        """Whether it is known to have died."""
        if not _is_watchable(process):
            return
        try:
            self._pidfd = open_pidfd(process)
        except ProcessLookupError:
            self.gone = True
            self._handle = self._loop.call_soon(self._on_death)
            return
        if self._pidfd is None:
            self._handle = self._loop.call_soon(self._poll)
        else:
            self._loop.add_reader(self._pidfd, self._died)

    @property
    def is_watching(self) -> bool:
        """False once it died or was closed, and for a process that cannot be watched."""
        return self._pidfd is not None or (self._handle is not None and not self.gone)

    def close(self) -> None:
        """`on_death` is not called any more. Idempotent."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _died(self) -> None:
        self.close()
        self.gone = True
        self._on_death()

    def _poll(self) -> None:
        self._handle = None
        if is_gone(self._process):
            self._died()
        else:
            self._handle = self._loop.call_later(POLL_SECONDS, self._poll)


def is_gone(process: ProcessRef) -> bool:
    """True only when it is known to have died: none of its threads runs any code, also none of a
    zombie's. False for one that cannot be asked about."""
    if not _is_watchable(process):
        return False
    try:
        pidfd = open_pidfd(process)
    except ProcessLookupError:
        return True
    if pidfd is None:
        return _is_zombie(process.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(pidfd)


def open_pidfd(process: ProcessRef) -> int | None:
    """A descriptor that becomes readable when the process ends; None where the kernel gives none.
    Raises ProcessLookupError when it is gone, its number perhaps given to another."""
    pidfd: int | None
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        pidfd = None
    try:
        # After opening: from here on the number cannot go to another process.
        started = process_start(process.pid)
    except PermissionError:
        return pidfd  # hidden from us, so it exists
    except ProcessLookupError:
        if _exists(process.pid):
            return pidfd  # /proc hides other users' processes here
        _close(pidfd)
        raise
    if started != process.started:
        _close(pidfd)
        raise ProcessLookupError(f"process {process.pid} is gone; its number was given anew")
    return pidfd


def _is_watchable(process: ProcessRef) -> bool:
    is_number = 0 < process.pid < 1 << 31  # what a peer says may be anything
    return is_number and process.pid != os.getpid() and process.space == process_space()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return not _exists(pid)


def _close(pidfd: int | None) -> None:
    if pidfd is not None:
        os.close(pidfd)

"""Starting a child process: as a program of its own, or as a fork of a loader.

A loader (`deploy/loader.py`) is a child that has imported torch and loaded the weights, and does
nothing but fork: its forks begin where it stands, and share its memory until they write to it.
Forks are children of this process, not of the loader (`lifeline.adopt_orphans`): they outlive it,
and are waited for like any other.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

FORK_SECONDS = 10.0
"""A loader that is alive forks within milliseconds."""


class Process(Protocol):
    """A child that was started. Until `wait` has returned its pid is its own."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Exit status; negative: the signal that ended it."""


async def execute(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    stdin: int,
    stdout: int,
    pass_fds: Sequence[int],
) -> Process:
    """A new program, leader of its own process group; standard error goes to `stdout` too."""
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stdout,
        env=env,
        pass_fds=tuple(pass_fds),
        process_group=0,
    )


class Forker:
    """The launcher's end of one loader."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._one_at_a_time = asyncio.Lock()

    async def fork(self, stdin: int, stdout: int, status: int) -> Process:
        """A fork with these three descriptors, leader of its own process group. Raises OSError
        when the loader is gone."""
        async with self._one_at_a_time, asyncio.timeout(FORK_SECONDS):
            socket.send_fds(self._ours, [b"fork"], [stdin, stdout, status])
            answer = await asyncio.get_running_loop().sock_recv(self._ours, 64)
        if not answer:
            raise ConnectionResetError("the loader has ended")
        return _Forked(int(answer))

    def close(self) -> None:
        self._ours.close()
        self.theirs.close()


class _Forked:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        self._status: int | None = None
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self._status is not None
        return self._status

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        self._ended.set()


def kill_group(process: Process, signum: int = signal.SIGKILL) -> None:
    """Its whole group; fine when all of it is gone."""
    try:
        os.killpg(process.pid, signum)
    except ProcessLookupError:
        return

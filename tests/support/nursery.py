"""Processes that begin where one stands that has imported all that they need: a fork takes
milliseconds, and an import of numpy and UCX a second, which a hundred peers would each spend.

    test process -- "fork", two pipes --> nursery -- fork --> peer, with the pipes as its 0 and 1
    test process -- "wait", a pid ------> nursery: reaps it, and answers with its exit code

A peer is the nursery's child, which does nothing of itself: one that has died stays a zombie until
the test asks for its code, as with a child of its own. The nursery ends with the test process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


class Forked:
    """What `subprocess.Popen` has of a process, for a fork of the nursery."""

    def __init__(self, nursery: Nursery, pid: int, stdin: int, stdout: int) -> None:
        self.pid = pid
        self.stdin = os.fdopen(stdin, "wb")
        self.stdout = os.fdopen(stdout, "rb")
        self._nursery = nursery
        self._pidfd = os.pidfd_open(pid)
        self._code: int | None = None

    def wait(self, seconds: float) -> int:
        """The exit code; negative: the signal that ended it. Raises subprocess.TimeoutExpired."""
        if self._code is None:
            poll = select.poll()  # not select(), which ends at descriptor 1,024
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(seconds * 1000):
                raise subprocess.TimeoutExpired(f"peer {self.pid}", seconds)
            os.close(self._pidfd)
            self._code = self._nursery.ask({"wait": self.pid})
        return self._code

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def send_signal(self, number: signal.Signals) -> None:
        if self._code is None:  # else the pid may be another's
            os.kill(self.pid, number)


class Nursery:
    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("transport_peer.py")),
             "nursery", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        theirs.close()

    def fork(self, *arguments: str) -> Forked:
        """A process that was given these arguments."""
        their_stdin, stdin = os.pipe()
        stdout, their_stdout = os.pipe()
        try:
            pid = self.ask({"fork": arguments}, [their_stdin, their_stdout])
        finally:
            os.close(their_stdin)
            os.close(their_stdout)
        return Forked(self, pid, stdin, stdout)

    def ask(self, request: dict[str, Any], fds: list[int] | None = None) -> int:
        socket.send_fds(self._ours, [json.dumps(request).encode()], fds or [])
        return int(self._ours.recv(64))


@functools.cache
def nursery() -> Nursery:
    """The one of this process."""
    return Nursery()


def nurse(fd: int) -> list[str] | None:
    """In the nursery, until nobody can ask any more: None. In each fork: its arguments."""
    with socket.socket(fileno=fd) as requests:
        while True:
            message, fds, _, _ = socket.recv_fds(requests, 1 << 16, 2)
            if not message:
                return None
            request = json.loads(message)
            if "wait" in request:
                _, status = os.waitpid(request["wait"], 0)
                requests.send(str(os.waitstatus_to_exitcode(status)).encode())
                continue
            pid = os.fork()
            if pid == 0:
                for standard, fd in enumerate(fds):
                    os.dup2(fd, standard)
            for fd in fds:
                os.close(fd)
            if pid == 0:
                return list(request["fork"])
            requests.send(str(pid).encode())

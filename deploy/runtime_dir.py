"""The private directory of one `baton up`, for the control sockets of its processes.

It is removed at the end: by the launcher; by the router, when the launcher was killed; and when
both were, by the next launcher of the same user, which finds that nobody holds its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "baton-"
_LOCK = "lock"
_MAX_SOCKET_PATH = 100
"""Bytes that a Unix socket's path may have, less a little."""


@contextlib.contextmanager
def runtime_directory() -> Iterator[Path]:
    """A directory that only this user can enter, removed at the end."""
    parent = Path(tempfile.gettempdir())
    if len(bytes(parent)) > _MAX_SOCKET_PATH - len("/baton-12345678/control"):
        parent = Path("/tmp")
    remove_left_behind(parent)
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        with (path / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path.mkdir(mode=0o700, exist_ok=True)  # taken for left behind a moment ago
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_left_behind(parent: Path) -> None:
    """Directories of ours whose launcher is gone. One without a lock is just being made."""
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), lock.open("r+") as opened:
            if os.fstat(opened.fileno()).st_uid != os.geteuid():
                continue
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is in use
            shutil.rmtree(lock.parent, ignore_errors=True)

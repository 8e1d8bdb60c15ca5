"""The request journal: one line of JSON for each choice that ended, for planner and simulator.

Times, lengths, prefix hashes, lane, decisions, phases and outcome; no text and no token. Lines are
written by a thread of their own, so a slow disk delays no request. When a file is full it is
renamed `NAME.1`, the one before `NAME.2`, and so on; the oldest is deleted. A disk that takes no
more costs lines, which are counted and said once, and nothing else.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from queue import Full, Queue
from threading import Thread

import msgspec

from baton.protocol.errors import ConfigError
from baton.router.account import Account

log = logging.getLogger(__name__)

FILE_BYTES = 64 << 20
FILES = 8
"""The one that is written, and older ones."""
_MAX_WAITING = 10_000
"""Lines for the disk; more are lost, or a disk that hangs would take all memory."""


class Journal:
    """`path`: of the newest file; its folder is created. Raises ConfigError when it cannot be
    written."""

    def __init__(
        self, path: Path, *, file_bytes: int = FILE_BYTES, files: int = FILES
    ) -> None:
        self.path = path
        self.lost = 0
        """Lines that could not be written."""
        self._file_bytes = file_bytes
        self._files = files
        self._encoder = msgspec.json.Encoder()
        self._waiting: Queue[Account | None] = Queue(_MAX_WAITING)
        self._troubled = False
        self._file = -1
        self._size = 0
        self._torn = False
        """The file does not end with a whole line."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise ConfigError(
                f"--journal {path} cannot be written: {error.strerror}; name another file, or off"
            ) from error
        self._thread = Thread(target=self._write_all, name="journal", daemon=True)
        self._thread.start()

    def add(self, account: Account) -> None:
        """Write it soon. Never waits."""
        try:
            self._waiting.put_nowait(account)
        except Full:
            self._lose("the disk does not keep up")

    def close(self, timeout: float = 2.0) -> None:
        """Write what is waiting, for at most `timeout` seconds, and close the file."""
        try:
            self._waiting.put(None, timeout=timeout)
        except Full:
            return
        self._thread.join(timeout)

    # -- on the thread -------------------------------------------------------------------------

    def _write_all(self) -> None:
        while (account := self._waiting.get()) is not None:
            try:
                self._write(self._encoder.encode(account) + b"\n")
            except OSError as error:
                self._lose(error.strerror or str(error))
            else:
                self._troubled = False
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        if self._size and self._size + len(line) > self._file_bytes:
            self._rotate()
        # One write to a file that is opened for appending: a line is never torn by another
        # writer, only by a full disk, and then the next one begins on a line of its own.
        written = os.write(self._file, b"\n" + line if self._torn else line)
        self._size += written
        self._torn = written < len(line)
        if self._torn:
            raise OSError(0, "the disk is full")

    def _rotate(self) -> None:
        os.close(self._file)
        for number in range(self._files - 1, 0, -1):
            older = self.path if number == 1 else self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        if self._files == 1:
            self.path.unlink()
        self._open()

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._file).st_size
        # A line that a crash cut short stays alone.
        self._torn = self._size > 0 and os.pread(self._file, 1, self._size - 1) != b"\n"

    def _lose(self, why: str) -> None:
        self.lost += 1
        if not self._troubled:
            log.error("lines of the journal %s are lost: %s", self.path, why)
        self._troubled = True

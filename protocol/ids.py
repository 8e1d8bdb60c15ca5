"""Identities: who is speaking, and which life of theirs it is.

A node (router or worker) keeps its *id* over restarts and draws a new *epoch* each time its
process starts. Everything addressed to an old epoch is void.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

PROTOCOL_VERSION = 2
"""The version this build speaks. It also accepts `OLDEST_PROTOCOL_VERSION`; what a version added is
in `versions.py`."""

OLDEST_PROTOCOL_VERSION = 1


class Identity(msgspec.Struct, frozen=True, array_like=True, cache_hash=True):
    """One life of one node. Names workers in many tables, hence the kept hash."""

    node_id: str
    epoch: int


class RequestKey(msgspec.Struct, frozen=True, array_like=True):
    """One attempt at one choice of one request. A retry is a new attempt, so late words about
    the old one are recognised and dropped."""

    request_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.request_id}#{self.attempt}"


class ProcessRef(msgspec.Struct, frozen=True, array_like=True):
    """One process, so that others on its host can ask the kernel whether it lives."""

    pid: int
    started: int
    """Clock ticks from boot to its start: tells it from a later process with its number."""
    space: str
    """Where the number means something: the host's boot and the PID namespace."""


def own_process() -> ProcessRef:
    """This process. Not to be kept over a fork."""
    pid = os.getpid()
    return ProcessRef(pid, process_start(pid), process_space())


def process_start(pid: int) -> int:
    """When this process started, in clock ticks since boot. Raises ProcessLookupError."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(f"no process {pid}") from error
    # The command name, in parentheses, may itself hold spaces and parentheses.
    return int(stat.rpartition(")")[2].split()[19])


def process_space() -> str:
    """The same for two processes exactly when they mean the same process by the same number."""
    return f"{_boot_id()}/{Path('/proc/self/ns/pid').readlink()}"


def new_epoch() -> int:
    """A random positive 63-bit integer."""
    return secrets.randbits(63) | 1


def host_id() -> str:
    """The same for two processes exactly when they share a kernel and its shared memory.

    Containers of one host that do not share an IPC namespace cannot use shared memory, so the
    namespace is part of the identity.
    """
    return f"{_boot_id()}/{Path('/proc/self/ns/ipc').readlink()}"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

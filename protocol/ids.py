"""Identities: who is speaking, and which life of theirs it is.

A node (router or worker) keeps its *id* over restarts and draws a new *epoch* each time its
process starts. Everything addressed to an old epoch is void.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

PROTOCOL_VERSION = 1
"""The version this build speaks. It also accepts `OLDEST_PROTOCOL_VERSION`."""

OLDEST_PROTOCOL_VERSION = 1


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """One life of one node."""

    node_id: str
    epoch: int


class RequestKey(msgspec.Struct, frozen=True, array_like=True):
    """One attempt at one choice of one request. A retry is a new attempt, so late words about
    the old one are recognised and dropped."""

    request_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.request_id}#{self.attempt}"


def new_epoch() -> int:
    """A random positive 63-bit integer."""
    return secrets.randbits(63) | 1


def host_id() -> str:
    """The same for two processes exactly when they share a kernel and its shared memory.

    Containers of one host that do not share an IPC namespace cannot use shared memory, so the
    namespace is part of the identity.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = Path("/proc/self/ns/ipc").readlink()
    return f"{boot}/{namespace}"

"""Two network namespaces joined by a shaped link, and a plain TCP stream over it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection

_CLONE_NEWNET, _CLONE_NEWNS = 0x40000000, 0x00020000
_MS_REC, _MS_SLAVE, _MNT_DETACH = 0x4000, 0x80000, 2
ADDRESSES = ("10.200.77.1", "10.200.77.2")
_PIECE = 1 << 20


def why_not() -> str | None:
    """Why there can be no namespaces here; None when there can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}`"
    try:
        with shaped_link(1000):
            return None
    except subprocess.CalledProcessError as error:
        return f"`{' '.join(error.cmd)}`: {error.stderr.strip()}"


@contextlib.contextmanager
def shaped_link(mbit_per_s: int) -> Iterator[tuple[str, str]]:
    """Two namespaces, each end of the pair between them shaped to this rate. Raises
    CalledProcessError."""
    names = (f"baton{os.getpid()}a", f"baton{os.getpid()}b")
    burst = max(32 << 10, mbit_per_s * 1_000_000 // 8 // 250)  # what a 250 Hz timer lets through
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        _run("ip", "link", "add", "vbaton0", "netns", names[0], "type", "veth",
             "peer", "name", "vbaton1", "netns", names[1])
        for index, name in enumerate(names):
            device = f"vbaton{index}"
            _run("ip", "-n", name, "addr", "add", f"{ADDRESSES[index]}/24", "dev", device)
            _run("ip", "-n", name, "link", "set", device, "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("tc", "-n", name, "qdisc", "add", "dev", device, "root", "tbf",
                 "rate", f"{mbit_per_s}mbit", "burst", str(burst), "latency", "50ms")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _run(*words: str) -> None:
    subprocess.run(words, capture_output=True, check=True, text=True)


def enter(namespace: str) -> None:
    """This thread, and all that it starts, from now on, with a /sys of its own: UCX looks for its
    devices there. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(status: int) -> None:
        if status != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter network namespace {namespace}")

    with open(f"/var/run/netns/{namespace}") as file:
        check(libc.setns(file.fileno(), _CLONE_NEWNET))
    check(libc.unshare(_CLONE_NEWNS))
    check(libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None))
    libc.umount2(b"/sys", _MNT_DETACH)
    check(libc.mount(b"sysfs", b"/sys", b"sysfs", ctypes.c_ulong(0), None))


def tcp_bytes_per_s(namespaces: tuple[str, str], total: int) -> float:
    """What one plain TCP connection moves from the first namespace to the second."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    receiver = context.Process(target=_tcp_receiver, args=(theirs, namespaces[1], total))
    receiver.start()
    port = ours.recv()
    sender = context.Process(target=_tcp_sender, args=(namespaces[0], port, total))
    sender.start()
    seconds = float(ours.recv())
    sender.join(10)
    receiver.join(10)
    return total / seconds


def _tcp_receiver(pipe: Connection, namespace: str, total: int) -> None:
    enter(namespace)
    with socket.create_server((ADDRESSES[1], 0)) as server:
        pipe.send(server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            buffer = bytearray(_PIECE)
            left = total - connection.recv_into(buffer, 1)
            started = time.perf_counter()
            while left:
                left -= connection.recv_into(buffer, min(left, _PIECE))
            pipe.send(time.perf_counter() - started)


def _tcp_sender(namespace: str, port: int, total: int) -> None:
    enter(namespace)
    piece = bytes(_PIECE)
    with socket.create_connection((ADDRESSES[1], port)) as connection:
        for at in range(0, total, _PIECE):
            connection.sendall(piece[: min(_PIECE, total - at)])

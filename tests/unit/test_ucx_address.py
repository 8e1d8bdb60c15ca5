"""The envelope around a UCX address."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from baton.kvtransfer.ucx.address import own_address, unpack
from baton.protocol.ids import process_start


def test_packed_and_unpacked() -> None:
    address = own_address("1.21.0", b"\x00\x01worker", "where to meet")
    assert unpack(address.pack()) == address
    assert address.process.pid == os.getpid()


def test_every_damage_is_found() -> None:
    packed = own_address("1.21.0", b"worker address", "").pack()
    for position in range(len(packed)):
        damaged = bytearray(packed)
        damaged[position] ^= 0x10
        with pytest.raises(ConnectionError):
            unpack(bytes(damaged))
        with pytest.raises(ConnectionError):
            unpack(packed[:position])
    with pytest.raises(ConnectionError):
        unpack(packed + b"more")


def test_process_start_tells_lives_apart() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    started = process_start(child.pid)
    assert started == process_start(child.pid)
    assert started >= process_start(os.getpid())
    child.stdin.close()
    child.wait(60)
    with pytest.raises(ProcessLookupError):
        process_start(child.pid)

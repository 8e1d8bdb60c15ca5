"""A transport that flips one byte of a block now and then, as a faulty link or memory would. For
measurements and tests: nothing that serves imports this."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baton.kvtransfer import registry
from baton.kvtransfer.transport import Buffer, Endpoint, Operation, Rows, Transport

MIN_BYTES = 1024
"""Shorter messages carry no blocks."""


class CorruptingEndpoint(Endpoint):
    """Every `every`-th message leaves with one byte changed. The block itself stays as it is."""

    def __init__(self, inner: Endpoint, every: int, draw: random.Random, switch: Path) -> None:
        self._inner = inner
        self._every = every
        self._switch = switch
        self._random = draw
        self._count = 0
        self.corrupted = 0

    def post_send(
        self, buffer: Buffer, tag: int, on_done: Callable[[Operation], None]
    ) -> Operation:
        return self._inner.post_send(self._perhaps_wrong(buffer), tag, on_done)

    def offer(
        self, buffer: Buffer, tag: int, on_done: Callable[[Operation], None]
    ) -> Operation:
        return self._inner.offer(self._perhaps_wrong(buffer), tag, on_done)

    def _perhaps_wrong(self, buffer: Buffer) -> Buffer:
        data = buffer.copy() if isinstance(buffer, Rows) else memoryview(buffer).cast("B")
        if len(data) >= MIN_BYTES and self._switch.exists():
            self._count += 1
            if self._count % self._every == 0:
                wrong = bytearray(data)
                wrong[self._random.randrange(len(wrong))] ^= 1 << self._random.randrange(8)
                buffer = wrong
                self.corrupted += 1
        return buffer

    @property
    def carriers(self) -> str:
        return self._inner.carriers

    def close(self) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def install(every: int, seed: int, switch: Path) -> None:
    """From now on, what this process sends over UCX is corrupted, while `switch` is there."""
    factory = registry._FACTORIES["ucx"]
    draw = random.Random(seed)

    def corrupting() -> Transport:
        transport = factory()
        connect = transport.connect

        def connect_badly(address: bytes, *, same_host: bool) -> Endpoint:
            return CorruptingEndpoint(connect(address, same_host=same_host), every, draw, switch)

        transport.connect = connect_badly  # type: ignore[method-assign]
        return transport

    registry._FACTORIES["ucx"] = corrupting

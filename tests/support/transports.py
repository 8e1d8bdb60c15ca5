"""What the transport tests share: pairs of ends, and ways to wait for operations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from baton.kvtransfer.registry import create_transport
from baton.kvtransfer.transport import Endpoint, Operation, Transport

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Ends:
    """Two transports of one process on one loop, each with an endpoint to the other."""

    def __init__(self, name: str) -> None:
        self.a: Transport = create_transport(name)
        self.b: Transport = create_transport(name)
        self.to_b: Endpoint = self.a.connect(self.b.address, same_host=True)
        self.to_a: Endpoint = self.b.connect(self.a.address, same_host=True)

    async def close(self) -> None:
        await self.a.close()
        await self.b.close()


async def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> None:
    """Run the loop until the condition holds; fails the test, naming `what`, when it does not."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.0005)


async def ended(operations: Iterable[Operation], seconds: float = 20.0) -> None:
    waiting = list(operations)
    await until(lambda: all(each.done for each in waiting), "operations to end", seconds)


async def succeeded(operations: Iterable[Operation]) -> None:
    waiting = list(operations)
    await ended(waiting)
    assert [each.error for each in waiting if each.error is not None] == []


def ignore(operation: Operation) -> None:
    """A callback that does nothing."""


def random_bytes(size: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)

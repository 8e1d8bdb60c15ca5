"""What the transport tests share: pairs of ends, and ways to wait for operations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from baton.kernels.shared_memory import shared_bytes
from baton.kvtransfer.registry import TRANSPORTS, create_transport
from baton.kvtransfer.transport import Endpoint, Operation, Transport

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


WAYS = (*TRANSPORTS, "shared", "offered")
"""Transports, and UCX where each end takes from the memory of the other: "shared" has the verbs
that are asked for, in "offered" every message is offered and every receive takes."""


class Ends:
    """Two transports of one process on one loop, each with an endpoint to the other."""

    def __init__(self, name: str) -> None:
        shares = name in ("shared", "offered")
        self.a: Transport = create_transport("ucx" if shares else name)
        self.b: Transport = create_transport("ucx" if shares else name)
        if shares:
            always = name == "offered"
            a, b = self.a, self.b
            self.a, self.b = _Taking(a, b.address, always), _Taking(b, a.address, always)
        self.to_b: Endpoint = self.a.connect(self.b.address, same_host=True)
        self.to_a: Endpoint = self.b.connect(self.a.address, same_host=True)

    async def close(self) -> None:
        await self.a.close()
        await self.b.close()


class _Taking:
    """A transport with its inbox for one sender in place of its own."""

    def __init__(self, transport: Transport, sender: bytes, always: bool) -> None:
        self.inner = transport
        self.inbox_of_sender = transport.inbox("sender", sender)
        self._always = always
        self.post_receive = self.take if always else self.inbox_of_sender.post_receive

    def connect(self, address: bytes, *, same_host: bool) -> Endpoint:
        endpoint = self.inner.connect(address, same_host=same_host)
        if self._always:
            endpoint.post_send = endpoint.offer  # type: ignore[method-assign]
        return endpoint

    def __getattr__(self, name: str) -> Any:
        ours = name in ("address", "take", "watch", "unwatch", "abandon", "pulls")
        return getattr(self.inbox_of_sender if ours else self.inner, name)


async def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    """Run the loop until the condition holds; fails the test, naming `what`, when it does not."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.0005)


async def ended(operations: Iterable[Operation], seconds: float = 60.0) -> None:
    waiting = list(operations)
    await until(lambda: all(each.done for each in waiting), "operations to end", seconds)


async def succeeded(operations: Iterable[Operation]) -> None:
    waiting = list(operations)
    await ended(waiting)
    assert [each.error for each in waiting if each.error is not None] == []


def ignore(operation: Operation) -> None:
    """A callback that does nothing."""


def random_bytes(size: int, seed: int = 0) -> Bytes:
    """In memory that other processes may map."""
    memory = shared_bytes(size) if size else np.empty(0, np.uint8)
    memory[:] = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return memory

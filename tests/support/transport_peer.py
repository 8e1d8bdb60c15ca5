"""A process with one UCX transport, told what to do by a test: a JSON object per line on stdin,
one per line back on stdout."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
from nursery import nurse, nursery

SECONDS = 60.0
"""In which every process gets to what it has to do, however busy the machine is."""


def pattern(size: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """`size` random bytes that depend on the seed alone."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


class PeerProcess:
    """The test's handle on such a process."""

    def __init__(self, loop: str = "uvloop", **options: str) -> None:
        self.process = nursery().fork(loop, json.dumps(options))
        self._unread = b""
        self.address = bytes.fromhex(self.answer()["address"])

    def tell(self, **command: Any) -> None:
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, **command: Any) -> dict[str, Any]:
        self.tell(**command)
        return self.answer()

    def answer(self, seconds: float = SECONDS) -> dict[str, Any]:
        """The next line from the process, which must come in time."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            # Not select(), which ends at descriptor 1,024.
            poll = select.poll()
            poll.register(self.process.stdout, select.POLLIN)
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            assert ready, "the peer process does not answer"
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, f"the peer process ended, code {self.process.wait(SECONDS)}"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    async def answer_soon(self) -> dict[str, Any]:
        """As `answer`, while this process's loop runs."""
        return await asyncio.to_thread(self.answer)

    def signal(self, number: signal.Signals) -> None:
        """One that is to stop has stopped afterwards."""
        self.process.send_signal(number)
        if number == signal.SIGSTOP:
            process, deadline = psutil.Process(self.process.pid), time.monotonic() + SECONDS
            while process.status() != psutil.STATUS_STOPPED:
                assert time.monotonic() < deadline, "it does not stop"
                time.sleep(0.001)

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


@contextlib.contextmanager
def peer_processes(count: int, loop: str = "uvloop", **options: str) -> Iterator[list[PeerProcess]]:
    peers: list[PeerProcess] = []
    try:
        for _ in range(count):
            peers.append(PeerProcess(loop, **options))
        yield peers
    finally:
        for peer in peers:
            peer.end()


class _Peer:
    """Inside the process."""

    def __init__(self, options: dict[str, str]) -> None:
        from baton.kvtransfer.ucx import UcxTransport

        shares = options.pop("shares", "yes") == "yes"
        self.transport = UcxTransport(options, shares=shares)
        self.endpoints: dict[str, Any] = {}
        self.inboxes: dict[str, Any] = {}
        self.kept: list[Any] = []
        self.ended = asyncio.Event()
        say(address=self.transport.address.hex())

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self._read)
        await self.ended.wait()
        loop.remove_reader(0)
        started = time.perf_counter()
        await self.transport.close()
        say(closed=time.perf_counter() - started)

    def _read(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            self.ended.set()
        for line in data.splitlines():
            command = json.loads(line)
            getattr(self, "do_" + command.pop("do"))(**command)

    def do_connect(self, name: str, address: str, same_host: bool = True) -> None:
        endpoint = self.transport.connect(bytes.fromhex(address), same_host=same_host)
        self.endpoints[name] = endpoint
        say(carriers=endpoint.carriers)

    def do_inbox(self, name: str, sender: str) -> None:
        """An inbox for this sender, who may let us take from its memory."""
        self.inboxes[name] = self.transport.inbox(name, bytes.fromhex(sender))
        say(address=self.inboxes[name].address.hex(), pulls=self.inboxes[name].pulls)

    def do_take(self, name: str, tag: int, size: int, count: int = 1) -> None:
        """As `receive`, of what is offered to this inbox."""
        self._receive(self.inboxes[name].take, tag, size, count)

    def do_receive(self, tag: int, size: int, count: int = 1) -> None:
        """Reports a checksum for each message, once all are there."""
        self._receive(self.transport.post_receive, tag, size, count)

    def _receive(self, post: Any, tag: int, size: int, count: int) -> None:
        buffers = [np.zeros(size, np.uint8) for _ in range(count)]
        errors: list[str] = []
        left = count

        def done(operation: Any) -> None:
            nonlocal left
            left -= 1
            if operation.error is not None:
                errors.append(type(operation.error).__name__)
            if not left:
                say(received=[zlib.crc32(each) for each in buffers], errors=errors)

        for index, buffer in enumerate(buffers):
            post(buffer, tag + index, done)

    def do_send(self, name: str, tag: int, size: int, count: int = 1) -> None:
        """Message i holds `pattern(size, tag + i)`. Reports once all have ended."""
        self._send(self.endpoints[name].post_send, tag, size, count)

    def do_offer(self, name: str, tag: int, size: int, count: int = 1) -> None:
        """As `send`, from memory that the receiver may take from."""
        self._send(self.endpoints[name].offer, tag, size, count)

    def _send(self, post: Any, tag: int, size: int, count: int) -> None:
        from baton.kernels.shared_memory import shared_bytes

        errors: list[str] = []
        left = count

        def done(operation: Any) -> None:
            nonlocal left
            left -= 1
            if operation.error is not None:
                errors.append(type(operation.error).__name__)
            if not left:
                say(sent=count - len(errors), errors=errors)

        for index in range(count):
            buffer = shared_bytes(size) if size else np.empty(0, np.uint8)
            buffer[:] = pattern(size, tag + index)
            post(buffer, tag + index, done)

    def do_flood(self, name: str, tag: int, size: int, count: int) -> None:
        """Send without reporting."""
        buffer = np.zeros(size, np.uint8)
        for index in range(count):
            self.endpoints[name].post_send(buffer, tag + index, lambda _: None)
        say(flooded=count)

    def do_absorb(self, tag: int, size: int, count: int) -> None:
        """Receive without reporting."""
        for index in range(count):
            self.transport.post_receive(np.zeros(size, np.uint8), tag + index, lambda _: None)
        say(absorbing=count)

    def do_close_endpoint(self, name: str) -> None:
        self.endpoints.pop(name).close()
        say(closed_endpoint=name)

    def do_cpu(self) -> None:
        say(cpu=time.process_time(), wall=time.perf_counter())

    def do_end(self) -> None:
        self.ended.set()


def say(**answer: Any) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def main() -> None:
    """As a nursery: of peers, each told the loop that it runs on and the options of UCX."""
    import uvloop

    import baton.kernels.shared_memory
    import baton.kvtransfer.ucx  # noqa: F401

    arguments = nurse(int(sys.argv[2]))
    if arguments is None:
        return
    loop, options = arguments

    async def run() -> None:
        await _Peer(json.loads(options)).run()

    if loop == "uvloop":
        uvloop.run(run())
    else:
        asyncio.run(run())


if __name__ == "__main__":
    main()

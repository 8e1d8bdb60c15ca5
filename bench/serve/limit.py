"""What this client alone can take: `baton bench serve --check-client`.

A server that does nothing but write prepared events, in a process of its own, one event for each of
its streams at every step, as an engine does. From step to step it is faster. What counts is where
the client still stamps in time: its loop's lag says so.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, cast

from baton.bench.report import show_table
from baton.bench.results import deliver, found
from baton.bench.serve.asking import Asking, find
from baton.bench.serve.run import serve
from baton.bench.workloads.arrival import Arrival
from baton.protocol.tokens import pack_tokens

STREAMS = 64
_TOKENS = 400
_STEPS = (20e-3, 10e-3, 5e-3, 2.5e-3, 0.0)
"""Seconds between events of a stream; 0: as fast as they are taken."""
_IN_TIME = 5e-3
"""Lag at the 99th percentile, in seconds, of a client that is in time."""
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_END = b"0\r\n\r\n"


class _Streams:
    """All streams of the server; each step writes one event to each."""

    def __init__(self, tokens: int, step: float) -> None:
        self.step = step
        self.left: dict[asyncio.Transport, int] = {}
        self._tokens = tokens
        self._running = False

    def add(self, transport: asyncio.Transport, tokens: int) -> None:
        transport.write(_HEAD)
        self.left[transport] = min(tokens, self._tokens)
        if not self._running:
            self._running = True
            asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self.left:
            due = max(due + self.step, loop.time() - self.step)
            await asyncio.sleep(max(0.0, due - loop.time()))
            for transport, left in list(self.left.items()):
                if transport.is_closing():
                    del self.left[transport]
                elif left > 1:
                    transport.write(_EVENT)
                    self.left[transport] = left - 1
                else:
                    transport.write(_LAST + _END)
                    del self.left[transport]
        self._running = False


class _Connection(asyncio.Protocol):
    def __init__(self, streams: _Streams) -> None:
        self._streams, self._data = streams, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, blank, body = self._data.partition(b"\r\n\r\n")
        if not blank:
            return
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if len(body) < length:
            return
        self._data = b""
        if head.startswith(b"GET"):
            models = b'{"data":[{"id":"nothing"}]}' if b"models" in head[:40] else b""
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(models), models)
            )
        else:
            self._streams.add(self._transport, json.loads(body)["max_tokens"])


def _event(finish: str | None) -> bytes:
    """As large as Baton's."""
    data = b"data: " + json.dumps({
        "id": "cmpl-0123456789abcdef0123456789abcdef", "created": 1700000000, "model": "nothing",
        "system_fingerprint": "0123456789abcdef", "object": "text_completion",
        "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": finish,
                     "token_ids": [1234]}],
        "usage": None,
    }, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


_EVENT, _LAST = _event(None), _event("length")


def _server(port: Connection, step: float) -> None:
    import uvloop

    async def run() -> None:
        streams = _Streams(_TOKENS, step)
        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(streams), "127.0.0.1", 0
        )
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())


def _arrivals(count: int) -> Iterator[Arrival]:
    prompt = pack_tokens(range(64))
    return (Arrival(0.0, lambda: prompt, _TOKENS, _TOKENS, n) for n in range(count))


async def _measure(url: str, step: float) -> dict[str, Any]:
    server = await find(url, Asking())
    # About three seconds, but enough requests where there is no waiting.
    rounds = max(1, min(12, round(3.0 / (_TOKENS * step)))) if step else 12
    served = await serve(url, _arrivals(rounds * STREAMS), server=server, concurrency=STREAMS)
    tokens = sum(seen.tokens for seen in served.requests)
    rate = tokens / served.wall
    lag = served.client.summary()["loop_lag_ms"]
    assert isinstance(lag, dict)
    return {
        "offered_per_s": round(STREAMS / step) if step else None,
        "tokens_per_s": round(rate), "cpu_share": round(served.client.cpu, 3),
        "cpu_us_per_token": round(1e6 * served.client.cpu / rate, 2),
        "loop_lag_ms": lag,
    }


def measure_limit(where: str | None) -> int:
    """Prints or appends what was measured. Returns the exit code."""
    import uvloop

    lines = []
    for step in _STEPS:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_server, args=(theirs, step), daemon=True
        )
        process.start()
        try:
            url = f"http://127.0.0.1:{ours.recv()}"
            lines.append(uvloop.run(_measure(url, step)))
        finally:
            process.kill()
            process.join()
    in_time = [
        line["tokens_per_s"] for line in lines if line["loop_lag_ms"]["p99"] < 1e3 * _IN_TIME
    ]
    result = found(
        "serve client", settings={"streams": STREAMS, "tokens": _TOKENS}, series={"steps": lines},
        metrics={"tokens_per_s_in_time": max(in_time, default=None),
                 "tokens_per_s_at_most": max(line["tokens_per_s"] for line in lines)},
    )
    if not deliver(result, where):
        show_table(
            f"{STREAMS} streams from a server that does nothing",
            ("tokens/s offered", "taken", "of a core", "CPU us per token", "lag p50 ms", "p99",
             "max"),
            [(line["offered_per_s"] or "all it can", line["tokens_per_s"], line["cpu_share"],
              line["cpu_us_per_token"], *line["loop_lag_ms"].values()) for line in lines],
        )
    return 0

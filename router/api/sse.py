"""Server-sent events, written straight to the transport.

`StreamResponse.write` costs several times what the event itself does, at one event per token. So
aiohttp writes the headers and the end, and the events between go to the transport already framed.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

DONE = b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


class SseWriter:
    """One response. Nothing is on the wire before `open`; `send` never waits.

    A client that goes away cancels the handler (handler_cancellation), so `send` to a closed
    connection does nothing rather than raise.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )
        self._lock = asyncio.Lock()
        self._transport: asyncio.Transport | None = None
        self._chunked = False
        self.opened = False

    async def open(self) -> web.StreamResponse:
        """Sends the headers, once."""
        async with self._lock:
            if not self.opened:
                await self._response.prepare(self._request)
                self._transport = self._request.transport
                # HTTP/1.0 has no chunks; there the end of the connection ends the body.
                self._chunked = "Transfer-Encoding" in self._response.headers
                self.opened = True
        return self._response

    def send(self, events: bytes) -> None:
        """Writes whole events, as one chunk."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(events), events) if self._chunked else events)

    @property
    def congested(self) -> bool:
        """The client reads more slowly than we write: `drain` before going on."""
        return self._request.protocol.writing_paused

    async def drain(self) -> None:
        await self._request.writer.drain()

    async def close(self) -> web.StreamResponse:
        """Ends the body properly. The connection stays: closing it unannounced would fail the
        request that the client sends on it next."""
        await self._response.write_eof()
        return self._response

"""An OpenAI-compatible server that answers by script: what each request is to live through."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

METRICS = """# TYPE fake_wait_seconds histogram
fake_wait_seconds_bucket{{phase="queue",le="+Inf"}} {count}
fake_wait_seconds_sum{{phase="queue"}} {total}
fake_wait_seconds_count{{phase="queue"}} {count}
# TYPE fake_tokens_total counter
fake_tokens_total {tokens}
"""


@dataclass(frozen=True)
class Script:
    """One answer."""

    status: int = 200
    chunks: tuple[int, ...] | None = None
    """Tokens of each chunk; None: one each, as many as asked for."""
    delays: tuple[float, ...] = ()
    """Seconds before each chunk; none where there are no more."""
    error_after: int | None = None
    """An error event after so many chunks."""
    cut_after: int | None = None
    """The connection is closed after so many chunks."""
    stall_after: int | None = None
    """Nothing comes after so many chunks, for as long as the client stays."""
    finish: str | None = "length"
    wait: asyncio.Event | None = None
    """Before the first chunk."""
    headers: tuple[tuple[str, str], ...] = ()
    plain: str | None = None
    """In place of a stream."""


@dataclass
class ScriptedServer:
    """`script` chooses by the number of the request, those that look for abilities left out. A
    prompt of three tokens begins with its number; others are counted."""

    script: Callable[[int], Script] = lambda number: Script()
    tells_ids: bool = True
    rejects: tuple[str, ...] = ()
    """Fields that are answered with 400."""
    usage: bool = True
    first: Script = field(default_factory=Script)
    """What requests that look for abilities live through."""
    models: Any = field(default_factory=lambda: {"data": [
        {"id": "scripted", "max_model_len": 4096}]})
    """What /v1/models answers; a string as it is."""
    scraping: Callable[[], Awaitable[None]] | None = None
    """Awaited before /metrics is answered."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    cancelled: int = 0
    """Requests whose client went away."""
    open: int = 0
    most_open: int = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        if isinstance(self.models, str):
            return web.Response(text=self.models, content_type="text/html")
        return web.json_response(self.models)

    async def _metrics(self, request: web.Request) -> web.Response:
        if self.scraping is not None:
            await self.scraping()
        number = len(self.bodies)
        return web.Response(text=METRICS.format(count=number, total=0.25 * number, tokens=number))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        for name in self.rejects:
            if name in body:
                error = {"error": {"message": f"unknown field {name}"}}
                return web.json_response(error, status=400)
        if _looks_for_abilities(body):
            return await self._stream(request, body, self.first)
        prompt = body.get("prompt") or ""
        number = prompt[0] if len(prompt) == 3 else len(self.bodies)
        self.bodies.append(body)
        script = self.script(number)
        if script.status != 200:
            error = {"error": {"code": "overloaded", "message": "come back later"}}
            return web.json_response(error, status=script.status)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._stream(request, body, script)
        except (asyncio.CancelledError, ConnectionError):
            self.cancelled += 1
            raise
        finally:
            self.open -= 1

    async def _stream(
        self, request: web.Request, body: dict[str, Any], script: Script
    ) -> web.StreamResponse:
        if script.plain is not None:
            return web.Response(text=script.plain, content_type="application/json")
        reply = web.StreamResponse(headers={
            "content-type": "text/event-stream", **dict(script.headers),
        })
        await reply.prepare(request)
        if script.wait is not None:
            await script.wait.wait()
        chat = "messages" in body
        chunks = script.chunks or (1,) * body["max_tokens"]
        sent = 0
        for number, tokens in enumerate(chunks):
            if number < len(script.delays):
                await asyncio.sleep(script.delays[number])
            if script.error_after == number:
                error = {"code": "lost", "message": "a worker was lost"}
                await reply.write(_event({"error": error}))
                return reply
            if script.cut_after == number:
                assert request.transport is not None
                request.transport.close()
                return reply
            if script.stall_after == number:
                await asyncio.Event().wait()
            text = " ".join(f"t{sent + n}" for n in range(tokens)) + " "
            choice: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
            if self.tells_ids and body.get("return_token_ids"):
                choice["token_ids"] = [100 + sent + n for n in range(tokens)]
            sent += tokens
            last = number == len(chunks) - 1
            choice["finish_reason"] = script.finish if last else None
            await reply.write(_event({"choices": [choice]}))
        if self.usage and "stream_options" in body:
            prompt = body.get("prompt") or ()
            await reply.write(_event({"choices": [], "usage": {
                "prompt_tokens": len(prompt), "completion_tokens": sent,
            }}))
        await reply.write(b"data: [DONE]\n\n")
        return reply


def _looks_for_abilities(body: dict[str, Any]) -> bool:
    return body.get("prompt") == list(range(5, 15)) or "Once upon a time" in str(
        body.get("prompt", body.get("messages"))
    )


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@contextmanager
def in_thread(**options: Any) -> Iterator[str]:
    """The URL of one that runs beside the caller, which may have a loop of its own."""
    began: Future[str] = Future()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with scripted(**options) as server:
            began.set_result(server.url)
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield began.result(timeout=100)
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@asynccontextmanager
async def scripted(
    script: Callable[[int], Script] | Sequence[Script] | None = None, **options: Any
) -> AsyncIterator[ScriptedServer]:
    """`script`: by number, or one after the other and plain ones from then on."""
    server = ScriptedServer(**options)
    if callable(script):
        server.script = script
    elif script is not None:
        scripts = list(script)
        server.script = lambda number: scripts[number] if number < len(scripts) else Script()
    test = TestServer(server.app(), handler_cancellation=True)
    await test.start_server()
    server.url = str(test.make_url("")).rstrip("/")
    try:
        yield server
    finally:
        await test.close()

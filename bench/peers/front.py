"""A front for several servers with OpenAI's API, as small as it can be: bytes in, bytes out.

    round-robin URL URL ...   each request to the next one
    split PREFILL DECODE      vLLM's own disaggregation: the prompt to the first with one token to
                              make, then what it says about its KV cache to the second, which
                              fetches it and answers

    python -P -m baton.bench.peers.front --port 8100 round-robin http://127.0.0.1:8101 ...
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp
from aiohttp import web

_REMOTE = {
    "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None,
    "remote_block_ids": None, "remote_host": None, "remote_port": None,
}
_ENDPOINTS = ("/v1/completions", "/v1/chat/completions")
_PARAMS = "kv_transfer_params"


def prefill_body(body: dict[str, Any]) -> dict[str, Any]:
    """What the first server is asked: the prompt, and one token, not streamed."""
    asked = {**body, "stream": False, "max_tokens": 1, _PARAMS: dict(_REMOTE)}
    for name in ("stream_options", "max_completion_tokens", "min_tokens"):
        asked.pop(name, None)
    return asked


def decode_body(body: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """And the second. Raises ValueError when the first told nothing of its cache."""
    if not told.get(_PARAMS):
        raise ValueError(f"the prefill server told no {_PARAMS}")
    return {**body, _PARAMS: told[_PARAMS]}


class Front:
    """`servers`: URLs; with `split` the first reads prompts and the second answers."""

    def __init__(self, servers: Sequence[str], *, split: bool) -> None:
        self._servers = list(servers)
        self._next: Iterator[str] = itertools.cycle(self._servers)
        self._split = split

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.cleanup_ctx.append(self._session)
        for path in _ENDPOINTS:
            app.router.add_post(path, self._post)
        for path in ("/v1/models", "/metrics", "/health"):
            app.router.add_get(path, self._get)
        return app

    async def _session(self, app: web.Application) -> Any:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._http:
            yield

    async def _get(self, request: web.Request) -> web.StreamResponse:
        """By the one that answers."""
        async with self._http.get(self._servers[-1] + request.path) as reply:
            return web.Response(body=await reply.read(), status=reply.status,
                                content_type=reply.content_type)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        if not self._split:
            return await self._forward(request, next(self._next), data)
        body = json.loads(data)
        prefill, decode = self._servers
        async with self._http.post(prefill + request.path, json=prefill_body(body)) as reply:
            content = await reply.read()
            if reply.status != 200:
                return web.Response(body=content, status=reply.status,
                                    content_type=reply.content_type)
        try:
            asked = decode_body(body, json.loads(content))
        except ValueError as error:
            return web.json_response({"error": {"message": str(error), "code": "no_kv"}},
                                     status=502)
        return await self._forward(request, decode, json.dumps(asked).encode())

    async def _forward(
        self, request: web.Request, server: str, data: bytes
    ) -> web.StreamResponse:
        async with self._http.post(
            server + request.path, data=data, headers={"content-type": "application/json"}
        ) as reply:
            answer = web.StreamResponse(
                status=reply.status, headers={"content-type": reply.headers["content-type"]}
            )
            await answer.prepare(request)
            async for packet in reply.content.iter_any():
                await answer.write(packet)
            return answer


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="front", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("how", choices=("round-robin", "split"))
    parser.add_argument("servers", nargs="+", metavar="URL")
    options = parser.parse_args(arguments)
    if options.how == "split" and len(options.servers) != 2:
        parser.error("split is between two servers")
    front = Front(options.servers, split=options.how == "split")
    web.run_app(front.app(), host="127.0.0.1", port=options.port, print=None)


if __name__ == "__main__":
    main()

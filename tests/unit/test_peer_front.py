"""The front of peers: requests in turns, and the two halves of a request that is handed over."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cluster import wait_for

from baton.bench.compare.layouts import peer
from baton.bench.compare.running import LayoutFailed, Starter
from baton.bench.peers.front import Front, decode_body, prefill_body

BODY = {"prompt": [5, 6], "max_tokens": 9, "stream": True, "stream_options": {"x": 1}}
PARAMS = {"remote_block_ids": [1, 2], "remote_port": 7}


class Peer:
    """Answers as a server with a cache to hand over would."""

    def __init__(self, name: str, told: dict[str, Any] | None) -> None:
        self.name, self.told = name, told
        self.asked: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/completions", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(body := await request.json())
        if not body["stream"]:
            return web.json_response({"choices": [], "kv_transfer_params": self.told})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for part in ("a", "b"):
            await response.write(f"data: {self.name}{part}\n\n".encode())
        return response


@asynccontextmanager
async def front_of(*peers: Peer, split: bool) -> AsyncIterator[str]:
    servers = [TestServer(each.app()) for each in peers]
    for server in servers:
        await server.start_server()
    front = TestServer(Front([str(s.make_url("")).rstrip("/") for s in servers], split=split).app())
    await front.start_server()
    try:
        yield str(front.make_url("")).rstrip("/")
    finally:
        for server in (front, *servers):
            await server.close()


async def post(url: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as http, http.post(url + "/v1/completions", json=BODY) as r:
        return r.status, r.headers["content-type"], await r.text()


async def test_requests_go_round() -> None:
    peers = Peer("x", None), Peer("y", None)
    async with front_of(*peers, split=False) as url:
        said = [(await post(url))[2][6] for _ in range(4)]
    assert said == ["x", "y", "x", "y"]
    assert peers[0].asked[0] == BODY


async def test_a_prompt_is_read_by_one_and_answered_by_the_other() -> None:
    reads, answers = Peer("p", PARAMS), Peer("d", None)
    async with front_of(reads, answers, split=True) as url:
        status, kind, text = await post(url)
    assert (status, kind, text) == (200, "text/event-stream", "data: da\n\ndata: db\n\n")
    assert reads.asked == [prefill_body(BODY)]
    assert answers.asked == [{**BODY, "kv_transfer_params": PARAMS}]


async def test_without_a_cache_to_fetch_nothing_is_answered() -> None:
    reads, answers = Peer("p", None), Peer("d", None)
    async with front_of(reads, answers, split=True) as url:
        status, _, text = await post(url)
    assert status == 502
    assert json.loads(text)["error"]["code"] == "no_kv"
    assert not answers.asked


def test_the_prompt_alone_makes_one_token_and_is_no_stream() -> None:
    asked = prefill_body(BODY)
    assert (asked["max_tokens"], asked["stream"]) == (1, False)
    assert "stream_options" not in asked
    assert asked["kv_transfer_params"]["do_remote_decode"] is True
    assert BODY["max_tokens"] == 9, "the client's own is left as it is"
    with pytest.raises(ValueError, match="kv_transfer_params"):
        decode_body(BODY, {})


def test_a_command_that_starts_nothing_says_what_it_said() -> None:
    layout = peer("bad=sh -c 'echo no such model; exit 1'")
    with pytest.raises(LayoutFailed, match="no such model"), Starter([])(layout):
        pass


SERVER = """
import http.server, json
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": "m"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.HTTPServer(("127.0.0.1", 0), H)
print("at http://127.0.0.1:%d" % server.server_port, flush=True)
server.serve_forever()
"""


def test_a_peer_is_started_once_and_stands_still_between_its_runs(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    layout = peer(f"x={sys.executable} {tmp_path / 'server.py'}")
    start = Starter([])
    urls = []
    for _ in range(2):
        with start(layout) as running:
            assert running.model == "m"
            urls.append(running.url)
        (child,) = [p for p in psutil.Process().children() if "server.py" in " ".join(p.cmdline())]
        wait_for(lambda child=child: child.status() == psutil.STATUS_STOPPED, "it stands still")
    assert urls[0] == urls[1]
    start.close()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

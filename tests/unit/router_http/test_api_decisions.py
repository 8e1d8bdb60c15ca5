"""Decisions: as response headers for those who ask, and as pages."""

from __future__ import annotations

import pytest

from baton.protocol.ids import Identity
from baton.router.policy import Decision
from baton.router.prediction import Prediction

PREDICTION = Prediction(
    ttft=0.1234, queue=0.01, prefill=0.1, exposed=0.002, itl=0.01234, itl_others=0.012, work=0.1
)
REMOTE = Decision(
    "remote", Identity("decode-1", 1), Identity("prefill-0", 1), "split", PREDICTION
)


@pytest.mark.parametrize("stream", [False, True])
async def test_headers_for_those_who_ask(server, stream) -> None:
    server.service.decision = REMOTE
    body = {"prompt": "one", "max_tokens": 3, "stream": stream}
    url = server.url + "/v1/completions"
    async with server.http.post(url, json=body, headers={"x-baton-explain": "1"}) as response:
        await response.read()
        told = {k: v for k, v in response.headers.items() if k.startswith("x-baton-")}
    assert told == {
        "x-baton-route": "remote",
        "x-baton-reason": "split",
        "x-baton-decode-worker": "decode-1",
        "x-baton-prefill-worker": "prefill-0",
        "x-baton-predicted-ttft-ms": "123.4",
        "x-baton-predicted-itl-ms": "12.34",
    }
    for headers in ({}, {"x-baton-explain": "0"}):
        async with server.http.post(url, json=body, headers=headers) as response:
            await response.read()
            assert not [name for name in response.headers if name.startswith("x-baton-")]


async def test_without_measured_speeds_no_seconds_are_told(server) -> None:
    guess = Prediction(
        ttft=1, queue=0, prefill=1, exposed=0, itl=1, itl_others=1, work=1, measured=False
    )
    server.service.decision = Decision("local", Identity("m", 1), None, "mixed_worker", guess)
    async with server.http.post(
        server.url + "/v1/completions", json={"prompt": "one"}, headers={"x-baton-explain": "yes"}
    ) as response:
        told = {name for name in response.headers if name.startswith("x-baton-")}
    assert told == {"x-baton-route", "x-baton-reason", "x-baton-decode-worker"}


async def test_pages(server) -> None:
    async def get(path: str) -> tuple[int, dict]:
        async with server.http.get(server.url + path) as response:
            return response.status, await response.json()

    view = {"worker_id": "worker-1", "role": "prefill"}
    assert await get("/admin/overview") == (200, view)
    assert await get("/admin/decisions?limit=3") == (200, {"decisions": [view] * 3})
    assert len((await get("/admin/decisions"))[1]["decisions"]) == 50
    for limit in ("0", "-1", "2001", "x", "99999999999999999999"):
        status, body = await get(f"/admin/decisions?limit={limit}")
        assert (status, body["error"]["param"]) == (400, "limit")
    assert await get("/admin/requests/cmpl-1/0") == (200, {"choices": [view]})
    assert (await get("/admin/requests/cmpl-2"))[0] == 404

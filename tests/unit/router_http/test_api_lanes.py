"""How a request says which lane it takes, and what it belongs to."""

from __future__ import annotations

from typing import Any

import pytest

from baton.protocol.errors import BatonError

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]}, COMPLETIONS: {"prompt": "hi"},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("tier", "header", "lane", "priority"), [
    (None, None, "interactive", 0),
    ("auto", None, "interactive", 0),
    ("priority", None, "interactive", 1),
    ("flex", None, "batch", 0),
    ("flex", "interactive", "interactive", 0),
    (None, "batch", "batch", 0),
])
async def test_tier_and_header(server, path, tier, header, lane, priority):
    headers = {"x-baton-lane": header} if header else {}
    status, _, _ = await server.post(path, {**BODIES[path], "service_tier": tier}, headers=headers)
    assert status == 200
    request = server.service.flights[-1].request
    assert (request.lane, request.priority) == (lane, priority)


async def test_an_unknown_lane_is_told_which_there_are(server):
    status, body, _ = await server.post(
        CHAT, BODIES[CHAT], headers={"x-baton-lane": "express"}
    )
    assert (status, body["error"]["param"]) == (400, "x-baton-lane")
    assert "interactive, batch" in body["error"]["message"]
    status, body, _ = await server.post(CHAT, {**BODIES[CHAT], "service_tier": "scale"})
    assert (status, body["error"]["param"]) == (400, "service_tier")
    assert "flex" in body["error"]["message"]
    assert server.service.flights == []


async def test_a_session_reaches_all_choices(server):
    await server.post(CHAT, {**BODIES[CHAT], "prompt_cache_key": "talk", "n": 2})
    await server.post(COMPLETIONS, BODIES[COMPLETIONS], headers={"x-baton-session": "walk"})
    await server.post(CHAT, {**BODIES[CHAT], "prompt_cache_key": "talk", "cache_salt": "s"})
    await server.post(CHAT, BODIES[CHAT])
    sessions = [flight.session for flight in server.service.flights]
    assert sessions == ["talk", "talk", "walk", "s/talk", ""]
    status, body, _ = await server.post(
        CHAT, BODIES[CHAT], headers={"x-baton-session": "x" * 600}
    )
    assert (status, body["error"]["param"]) == (400, "x-baton-session")


async def test_overload_is_429_and_says_when_to_come_again(server):
    server.service.refusal = BatonError("overloaded", "too much to do", retry_after=7.2)
    status, body, headers = await server.post(CHAT, BODIES[CHAT])
    assert (status, headers["Retry-After"]) == (429, "8")
    assert (body["error"]["code"], body["error"]["type"]) == ("overloaded", "rate_limit_error")


async def test_the_page_names_the_headers(server):
    async with server.http.get(server.url + "/openapi.json") as response:
        paths = (await response.json())["paths"]
    for path in BODIES:
        names = [parameter["name"] for parameter in paths[path]["post"]["parameters"]]
        assert names == ["x-baton-lane", "x-baton-session"]
    assert "parameters" not in paths["/tokenize"]["post"]

"""Streams on the wire: events, failures in the middle, clients that go away, many at once."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import pytest

from baton.protocol.errors import BatonError

COMPLETIONS = "/v1/completions"
TEXT = "naïve 你好世界 🙂🚀 one"


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition, at most a minute."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (it may be about anything)
            await asyncio.sleep(0.001)


async def test_events(server):
    events = await server.events(
        COMPLETIONS, {"prompt": "x", "stream": True, "max_tokens": 50}
    )
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert {frozenset(chunk) for chunk in chunks} == {
        frozenset({"id", "object", "created", "model", "system_fingerprint", "choices"})
    }
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one two three"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][:-1] == [None] * (
        len(chunks) - 1
    )


@pytest.mark.parametrize("per_delta", [1, 2, 7])
async def test_characters_are_never_split(server, per_delta):
    text = TEXT + ' "quoted" \\ \n\t\x01'
    server.service.script = server.service.says(text, per_delta=per_delta)
    body = {"prompt": "x", "stream": True, "max_tokens": 200}
    events = await server.events(COMPLETIONS, body)
    pieces = [json.loads(event)["choices"][0]["text"] for event in events[:-1]]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert json.loads((await _raw(server, body)).split(b"data: ")[1])["choices"]


async def _raw(server, body) -> bytes:
    async with server.http.post(server.url + COMPLETIONS, json=body) as response:
        return await response.read()


async def test_http_1_0_has_no_chunks(server):
    body = json.dumps({"prompt": "x", "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"chunked" not in head
    assert answer.startswith(b"data: {")
    assert answer.endswith(b"data: [DONE]\n\n")


async def test_the_connection_is_kept_after_a_stream_also_after_a_failed_one(server):
    body = {"prompt": "x", "stream": True}
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    async def exchange() -> bytes:
        data = json.dumps(body).encode()
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
            % (len(data), data)
        )
        return await reader.readuntil(b"\r\n0\r\n\r\n")

    async with asyncio.timeout(60):
        for _ in range(2):
            assert b"[DONE]" in await exchange()
        failure = BatonError("worker_lost", "it died")
        server.service.script = server.service.fails_after("one two", failure)
        answer = await exchange()
        assert b"[DONE]" not in answer
        last = answer.split(b"data: ")[-1].split(b"\n\n")[0]
        assert json.loads(last) == {
            "error": {
                "message": "it died", "type": "server_error", "param": None, "code": "worker_lost"
            }
        }
        server.service.script = server.service.says("one")
        assert b"[DONE]" in await exchange()
    writer.close()
    assert server.sample("baton_requests_total", outcome="failed") == 1
    assert server.sample("baton_requests_total", outcome="completed") == 3


async def test_one_failing_choice_ends_the_stream_and_the_others(server):
    service = server.service
    good = service.hangs_after("one two")
    bad = service.fails_after("one", BatonError("worker_lost", "it died"))

    def script(request):
        return bad(request) if request.choice == 1 else good(request)

    service.script = script
    events = await server.events(COMPLETIONS, {"prompt": "x", "n": 3, "stream": True})
    assert json.loads(events[-1])["error"]["code"] == "worker_lost"
    assert all(flight.cancelled for flight in service.flights)
    status, body, _ = await server.post(COMPLETIONS, {"prompt": "x", "n": 3})
    assert (status, body["error"]["code"]) == (503, "worker_lost")


async def test_nothing_is_sent_before_the_first_token(server):
    service = server.service
    first = asyncio.Event()

    async def play(request):
        await first.wait()
        raise BatonError("deadline_exceeded", "no token in time")
        yield {}

    service.script = play
    answer = asyncio.create_task(server.post(COMPLETIONS, {"prompt": "x", "stream": True}))
    await until(lambda: len(service.flights) == 1)
    assert not answer.done()
    first.set()
    status, body, _ = await answer
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_goes_away_cancels_everything(server, stream, n, monkeypatch):
    service = server.service
    service.script = service.hangs_after("one two")
    body = json.dumps({"prompt": "x", "stream": stream, "n": n}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    await until(lambda: len(service.flights) == n)
    if stream:
        await reader.readuntil(b"data: ")
    loop = asyncio.get_running_loop()
    now = loop.time()
    with monkeypatch.context() as frozen:
        # No timer runs meanwhile: it is the connection that says so, at once.
        frozen.setattr(loop, "time", lambda: now)
        writer.close()
        for _ in range(100_000):
            if all(flight.ended.is_set() for flight in service.flights):
                break
            await asyncio.sleep(0)
    assert all(flight.ended.is_set() for flight in service.flights)
    assert all(flight.cancelled and not flight.finished_early for flight in service.flights)
    await until(lambda: server.sample("baton_requests_total", outcome="cancelled") == 1)
    assert server.sample("baton_active_requests") == 0


async def test_a_client_that_does_not_read_holds_the_tokens_back(server):
    """Back-pressure: the stream waits for the client instead of filling memory."""
    service = server.service
    produced = 0

    async def play(request):
        nonlocal produced
        token = service.tokenizer.encode("one")[0]
        while True:
            produced += 1
            yield {"tokens": [token] * 500}
            await asyncio.sleep(0)

    service.script = play
    body = json.dumps({"prompt": "x", "stream": True}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that little fills it
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    await reader.readuntil(b"data: ")
    seen = -1
    async with asyncio.timeout(60):
        while seen != produced:
            seen = produced
            for _ in range(200):
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
    writer.close()
    await asyncio.wait_for(service.flights[0].ended.wait(), 60)
    assert service.flights[0].cancelled


async def test_shutdown_ends_running_requests(service, tokenizer):
    import aiohttp

    from baton.router.http import create_app, serve
    from baton.router.metrics import RouterMetrics

    service.script = service.hangs_after("one")
    app = create_app(service, tokenizer, served_model_name="tiny", metrics=RouterMetrics())
    runner, port = await serve(app, "127.0.0.1", 0, shutdown_timeout=0.05)
    async with aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}{COMPLETIONS}"
        request = asyncio.create_task(http.post(url, json={"prompt": "x"}))
        await until(lambda: len(service.flights) == 1)
        async with asyncio.timeout(60):
            await runner.cleanup()
        with pytest.raises(aiohttp.ClientError):
            await request
    assert service.flights[0].cancelled


async def test_two_hundred_streams_at_once(server):
    body = {"prompt": TEXT, "stream": True, "max_tokens": 100}
    server.service.script = server.service.says(TEXT)

    async def one() -> str:
        events = await server.events(COMPLETIONS, body)
        assert events.pop() == "[DONE]"
        return "".join(json.loads(event)["choices"][0]["text"] for event in events)

    server.http.connector._limit = 0
    texts = await asyncio.gather(*(one() for _ in range(200)))
    assert texts == [TEXT] * 200
    assert server.sample("baton_requests_total", outcome="completed") == 200
    assert server.sample("baton_ttft_seconds_count") == 200
    assert not any(flight.cancelled for flight in server.service.flights)


async def test_long_prompts_do_not_block_other_streams(server):
    """They are tokenized in a thread (and then found too long)."""
    long = {"prompt": "one two " * 20_000}
    answers = await asyncio.gather(
        server.post(COMPLETIONS, long), server.post(COMPLETIONS, {"prompt": "x"})
    )
    assert [status for status, _, _ in answers] == [400, 200]
    assert answers[0][1]["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True])
async def test_token_ids_on_request_are_those_that_are_billed(server, tokenizer, stream):
    body = {"prompt": "x", "max_tokens": 50, "stop": " three", "return_token_ids": True}
    if stream:
        events = await server.events(COMPLETIONS, {**body, "stream": True})
        choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    else:
        async with server.http.post(server.url + COMPLETIONS, json=body) as response:
            reply = await response.json()
        choices = reply["choices"]
        assert reply["usage"]["completion_tokens"] == len(choices[0]["token_ids"])
    ids = [token for choice in choices for token in choice.get("token_ids", [])]
    assert tokenizer.decode(ids).startswith("one two")
    assert "".join(choice["text"] for choice in choices) == "one two"

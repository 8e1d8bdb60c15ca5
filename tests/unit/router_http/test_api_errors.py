"""Every kind of bad input has its answer, in OpenAI's error shape."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from baton.protocol.errors import BatonError, ConfigError
from baton.router.http import check_exposure, create_app, serve
from baton.router.metrics import RouterMetrics

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hello"}


def assert_error(answer: tuple[int, Any, Any], status: int, code: str, *words: str) -> None:
    got, body, headers = answer
    assert got == status, body
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    for word in words:
        assert word in error["message"], error["message"]
    assert headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", ["not JSON"]),
        (b"", ["empty"]),
        (b"[1]", ["object"]),
        (b"\xff\xfe{}", ["not JSON"]),
        (b"[" * 100_000, ["nested"]),
    ],
)
async def test_malformed_json(server, body, words):
    assert_error(await server.post(COMPLETIONS, body), 400, "invalid_json", *words)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("temperature", "hot", "a number from 0 to 2"),
        ("temperature", 2.5, "a number from 0 to 2"),
        ("temperature", -1, "a number from 0 to 2"),
        ("temperature", True, "a number from 0 to 2"),
        ("temperature", float("nan"), "a number from 0 to 2"),
        ("top_p", float("inf"), "above 0 and at most 1"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_k", -2, "at least -1"),
        ("min_p", 1.5, "from 0 to 1"),
        ("max_tokens", 1.5, "an integer at least 0"),
        ("max_tokens", -1, "an integer at least 0"),
        ("max_tokens", 2**40, "below 2147483648"),
        ("n", 0, "an integer from 1 to 128"),
        ("n", 129, "an integer from 1 to 128"),
        ("presence_penalty", 3, "from -2 to 2"),
        ("frequency_penalty", -3, "from -2 to 2"),
        ("repetition_penalty", 0, "above 0"),
        ("logprobs", 21, "from 0 to 20"),
        ("logprobs", True, "an integer from 0 to 20"),
        ("echo", "yes", "true or false"),
        ("stream", 1, "true or false"),
        ("seed", 2**63, "an integer"),
        ("stop", ["x"] * 17, "up to 16"),
        ("stop", 5, "a string or a list"),
        ("stop", "", "stop[0]"),
        ("stop_token_ids", [100_000], "stop_token_ids[0]"),
        ("stop_token_ids", [-1], "stop_token_ids[0]"),
        ("logit_bias", {"5": 101}, "-100 to 100"),
        ("logit_bias", {"5": float("nan")}, "-100 to 100"),
        ("logit_bias", {"99999": 1}, "token ids from 0"),
        ("logit_bias", {"abc": 1}, "token ids from 0"),
        ("logit_bias", [1], "an object"),
        ("prompt", [1, 2, 100_000], "prompt[2]"),
        ("prompt", [[1], [-1]], "prompt[1][0]"),
        ("prompt", 5, "must be a string"),
        ("prompt", ["a", 5], "must be a string"),
        ("prompt", [1.5], "must be a string"),
        ("prompt", "", "must not be empty"),
        ("prompt", [], "must not be empty"),
        ("prompt", ["a", ""], "must not be empty"),
        ("prompt", [[]], "must not be empty"),
        ("prompt", ["a"] * 1025, "1024"),
        ("min_tokens", 17, "at most max_tokens"),
        ("user", "x" * 600, "up to 512"),
        ("model", 5, "the served model's name"),
    ],
)
async def test_invalid_values_name_the_field_and_the_range(server, field, value, expected):
    body = json.dumps({"prompt": "hi", field: value})
    answer = await server.post(COMPLETIONS, body)
    assert_error(answer, 400, "invalid_value", field, expected)
    assert answer[1]["error"]["param"].startswith(field)
    assert server.service.flights == []
    assert server.sample("baton_requests_total", outcome="rejected") == 1


async def test_lone_surrogate_is_refused(server):
    body = b'{"prompt": "a\\ud800b"}'
    assert_error(await server.post(COMPLETIONS, body), 400, "invalid_value", "prompt", "surrogate")
    body = b'{"messages": [{"role": "user", "content": "\\udfff"}]}'
    assert_error(await server.post(CHAT, body), 400, "invalid_value", "messages[0].content")
    body = b'{"prompt": "a", "stop": "\\ud800"}'
    assert_error(await server.post(COMPLETIONS, body), 400, "invalid_value", "stop")


async def test_missing_prompt(server):
    answer = await server.post(COMPLETIONS, {})
    assert_error(answer, 400, "missing_parameter", "'prompt' is missing")
    answer = await server.post(CHAT, {})
    assert_error(answer, 400, "missing_parameter", "'messages' is missing")


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        ({"role": "wizard", "content": "hi"}, "invalid_value", ["messages[0].role", "assistant"]),
        ({"role": 5, "content": "hi"}, "invalid_value", ["messages[0].role"]),
        ({"content": "hi"}, "missing_parameter", ["messages[0].role"]),
        ({"role": "user"}, "missing_parameter", ["messages[0].content"]),
        ({"role": "user", "content": 5}, "invalid_value", ["messages[0].content"]),
        ({"role": "user", "content": None}, "missing_parameter", ["messages[0].content"]),
        ({"role": "user", "content": "a", "nmae": "b"}, "unknown_parameter",
         ["messages[0].nmae", "messages[0].name"]),
        ({"role": "tool", "content": "a", "tool_call_id": "b"}, "unsupported_parameter",
         ["messages[0].role"]),
        ({"role": "assistant", "content": "a", "tool_calls": [{}]}, "unsupported_parameter",
         ["messages[0].tool_calls"]),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
         "unsupported_parameter", ["messages[0].content", "image_url"]),
        ({"role": "user", "content": [{"type": "text"}]}, "invalid_value",
         ["messages[0].content", "part 0"]),
        ({"role": "user", "content": ["text"]}, "invalid_value", ["part 0"]),
        ("hello", "invalid_value", ["messages[0]"]),
    ],
)
async def test_invalid_messages(server, message, code, words):
    assert_error(await server.post(CHAT, {"messages": [message]}), 400, code, *words)


async def test_messages_the_template_refuses(server):
    body = {"messages": [{"role": "system", "content": "x"}]}
    answer = await server.post(CHAT, body)
    assert_error(answer, 400, "invalid_value", "template", "must not be a system message")
    assert_error(await server.post(CHAT, {"messages": []}), 400, "invalid_value", "at least one")


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (CHAT, "tools", [{"type": "function"}]),
        (CHAT, "tool_choice", "auto"),
        (CHAT, "functions", [{}]),
        (CHAT, "response_format", {"type": "json_object"}),
        (CHAT, "modalities", ["text", "audio"]),
        (CHAT, "audio", {}),
        (CHAT, "store", True),
        (CHAT, "reasoning_effort", "high"),
        (CHAT, "stream_options.include_obfuscation", True),
        (COMPLETIONS, "suffix", "x"),
        (COMPLETIONS, "best_of", 2),
        (COMPLETIONS, "max_completion_tokens", 5),
    ],
)
async def test_unsupported_parameters_are_refused_by_name(server, path, name, value):
    body: dict[str, Any] = {"prompt": "hi"} if path == COMPLETIONS else {"messages": [USER]}
    outer, _, inner = name.partition(".")
    body[outer] = {inner: value} if inner else value
    body["stream"] = bool(inner)
    answer = await server.post(path, body)
    assert_error(answer, 400, "unsupported_parameter", f"'{name}' is not supported: ")
    assert answer[1]["error"]["param"] == name


async def test_unsupported_parameters_that_ask_for_nothing_are_fine(server):
    body = {
        "messages": [{**USER, "tool_calls": None, "refusal": None, "annotations": []}],
        "tools": None,
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "store": False,
        "modalities": ["text"],
        "temperature": None,
        "stop": None,
        "logit_bias": None,
        "n": None,
        "user": "someone",
        "metadata": {"a": "b"},
    }
    assert (await server.post(CHAT, body))[0] == 200
    body = {"prompt": "hi", "suffix": None, "best_of": 1}
    assert (await server.post(COMPLETIONS, body))[0] == 200


@pytest.mark.parametrize(("name", "meant"), [("temprature", "temperature"), ("max_token", "max_")])
async def test_unknown_parameter_suggests_the_closest(server, name, meant):
    answer = await server.post(COMPLETIONS, {"prompt": "hi", name: 1})
    assert_error(answer, 400, "unknown_parameter", name, f"did you mean '{meant}")
    answer = await server.post(COMPLETIONS, {"prompt": "hi", "zzz": None})
    assert_error(answer, 400, "unknown_parameter", "'zzz'")


async def test_parameters_that_contradict_each_other(server):
    for path, body, words in [
        (CHAT, {"top_logprobs": 2}, ["top_logprobs", "logprobs"]),
        (CHAT, {"max_tokens": 2, "max_completion_tokens": 3}, ["differ"]),
        (CHAT, {"stream_options": {"include_usage": True}}, ["stream_options"]),
        (COMPLETIONS, {"max_tokens": 0}, ["echo"]),
        (COMPLETIONS, {"prompt": ["a"] * 100, "n": 11}, ["1100", "1024"]),
    ]:
        base = {"messages": [USER]} if path == CHAT else {"prompt": "hi"}
        assert_error(await server.post(path, base | body), 400, "invalid_value", *words)


async def test_context_length(server):
    answer = await server.post(COMPLETIONS, {"prompt": [5] * 200, "max_tokens": 100})
    assert_error(answer, 400, "context_length_exceeded", "200", "100", "300", "256")
    answer = await server.post(COMPLETIONS, {"prompt": [5] * 300})
    assert_error(answer, 400, "context_length_exceeded", "300", "256")
    answer = await server.post(CHAT, {"messages": [{"role": "user", "content": "dog " * 300}]})
    assert_error(answer, 400, "context_length_exceeded", "256")
    status, _, _ = await server.post(COMPLETIONS, {"prompt": [5] * 200, "max_tokens": 56})
    assert status == 200
    status, _, _ = await server.post(COMPLETIONS, {"prompt": [5] * 250})
    assert status == 200
    assert server.service.flights[-1].request.sampling.max_tokens == 6


async def test_unknown_model_and_path(server):
    answer = await server.post(COMPLETIONS, {"model": "gpt-9", "prompt": "hi"})
    assert_error(answer, 404, "model_not_found", "gpt-9", "'tiny'")
    async with server.http.get(server.url + "/v1/models/gpt-9") as response:
        answer = (response.status, await response.json(), response.headers)
    assert_error(answer, 404, "model_not_found", "'tiny'")
    answer = await server.post("/v1/embeddings", {})
    assert_error(answer, 404, "not_found", "/v1/embeddings", "/v1/completions")


async def test_wrong_method(server):
    async with server.http.get(server.url + COMPLETIONS) as response:
        answer = (response.status, await response.json(), response.headers)
    assert_error(answer, 405, "method_not_allowed", "POST", "GET")
    assert answer[2]["Allow"] == "POST"


@pytest.mark.parametrize("app_options", [{"api_key": "sécret"}])
async def test_api_key(server):
    body = {"prompt": "hi"}
    for value in (None, "Bearer wrong", "sécret", "Basic sécret", "Bearer ", "Bearer sécretx"):
        headers = {} if value is None else {"Authorization": value}
        answer = await server.post(COMPLETIONS, body, headers=headers)
        assert_error(answer, 401, "invalid_api_key", "Authorization: Bearer")
        assert answer[2]["WWW-Authenticate"] == "Bearer"
        assert answer[1]["error"]["type"] == "authentication_error"
    status, _, _ = await server.post(COMPLETIONS, body, headers={"Authorization": "Bearer sécret"})
    assert status == 200
    for path, expected in [("/health", 200), ("/ready", 200), ("/metrics", 200),
                           ("/admin/workers", 401), ("/v1/models", 401), ("/nowhere", 401)]:
        async with server.http.get(server.url + path) as response:
            assert response.status == expected


@pytest.mark.parametrize("app_options", [{"max_body_bytes": 1000}])
async def test_body_too_large(server):
    big = json.dumps({"prompt": "x" * 2000})
    assert_error(await server.post(COMPLETIONS, big), 413, "body_too_large", "1000")

    async def chunks():
        for _ in range(4):
            yield b"x" * 500

    async with server.http.post(server.url + COMPLETIONS, data=chunks()) as response:
        answer = (response.status, await response.json(), response.headers)
    assert_error(answer, 413, "body_too_large", "1000")
    assert server.sample("baton_requests_total", outcome="rejected") == 2


async def test_a_body_that_never_ends(server, monkeypatch):
    monkeypatch.setattr("baton.router.api.errors.BODY_SECONDS", 0.05)
    released = asyncio.Event()

    async def chunks():
        yield b'{"prompt": '
        await released.wait()

    async with server.http.post(server.url + COMPLETIONS, data=chunks()) as response:
        released.set()
        answer = (response.status, await response.json(), response.headers)
    assert_error(answer, 408, "body_too_slow", "0.05 s")


async def test_a_text_that_cannot_fit_is_not_tokenized(server, monkeypatch):
    monkeypatch.setattr(
        server.tokenizer, "encode", lambda *_, **__: pytest.fail("it was tokenized")
    )
    answer = await server.post(COMPLETIONS, {"prompt": "many words " * 100_000})
    assert_error(answer, 400, "context_length_exceeded", "at least")


async def test_a_body_that_is_not_compressed_as_it_says(server):
    answer = await server.post(
        COMPLETIONS, json.dumps({"prompt": "hi"}), headers={"Content-Encoding": "gzip"}
    )
    assert_error(answer, 400, "invalid_value", "gzip")


async def test_what_the_service_refuses(server):
    for stream in (False, True):
        server.service.refusal = BatonError("queue_full", "the queue is full", retry_after=2.3)
        answer = await server.post(COMPLETIONS, {"prompt": "hi", "stream": stream})
        assert_error(answer, 429, "queue_full")
        assert answer[2]["Retry-After"] == "3"
        assert answer[1]["error"]["type"] == "rate_limit_error"
        server.service.refusal = BatonError("no_worker", "no worker can serve")
        answer = await server.post(COMPLETIONS, {"prompt": "hi", "stream": stream})
        assert_error(answer, 503, "no_worker")


async def test_a_refused_choice_cancels_the_others(server):
    server.service.refusal = BatonError("queue_full", "the queue is full")
    server.service.refuse_from = 2
    answer = await server.post(COMPLETIONS, {"prompt": "hi", "n": 3})
    assert_error(answer, 429, "queue_full")
    assert [bool(flight.cancelled) for flight in server.service.flights] == [True, True]


async def test_a_batch_that_could_never_be_queued_is_no_429(server):
    server.service.max_choices = 5
    answer = await server.post(COMPLETIONS, {"prompt": ["a", "b"], "n": 3})
    assert_error(answer, 400, "invalid_value", "6 choices", "is 5")
    assert not server.service.flights


async def test_no_worker_yet(server):
    server.service.model = None
    assert_error(await server.post(COMPLETIONS, {"prompt": "hi"}), 503, "no_worker")


async def test_a_fault_of_ours_is_500_without_details(server):
    server.service.script = server.service.fails_after("", RuntimeError("secret detail"))
    for stream in (False, True):
        answer = await server.post(COMPLETIONS, {"prompt": "hi", "stream": stream})
        assert_error(answer, 500, "internal_error")
        assert "secret" not in answer[1]["error"]["message"]
    assert server.sample("baton_requests_total", outcome="failed") == 2


@pytest.mark.parametrize(
    "nonsense",
    [b"GET /health HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"],
)
async def test_what_clients_do_wrong_is_no_traceback_in_the_log(server, caplog, nonsense):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(nonsense)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head
    assert b"aiohttp" not in head
    assert json.loads(body)["error"]["code"] == "invalid_value"
    assert [record for record in caplog.records if record.exc_info] == []


async def test_no_http_at_all(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"NONSENSE\r\n\r\n")
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400") or head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["error"]["code"] == "invalid_value"


async def test_request_id_is_echoed(server):
    answer = await server.post(COMPLETIONS, {"prompt": "hi"}, headers={"x-request-id": "abc-1"})
    assert answer[2]["x-request-id"] == "abc-1"
    answer = await server.post(COMPLETIONS, {"prompt": ""}, headers={"x-request-id": "abc-2"})
    assert answer[2]["x-request-id"] == "abc-2"
    answer = await server.post(COMPLETIONS, {"prompt": "hi"})
    assert len(answer[2]["x-request-id"]) == 32
    answer = await server.post(COMPLETIONS, {"prompt": "hi"}, headers={"x-request-id": "a b"})
    assert_error(answer, 400, "invalid_value", "x-request-id")


async def test_a_busy_port_is_named(server, service, tokenizer):
    app = create_app(service, tokenizer, served_model_name="tiny", metrics=RouterMetrics())
    with pytest.raises(ConfigError, match=f"port {server.port} on 127.0.0.1 is in use"):
        await serve(app, "127.0.0.1", server.port)
    app = create_app(service, tokenizer, served_model_name="tiny", metrics=RouterMetrics())
    with pytest.raises(ConfigError, match=r"203\.0\.113\.1 is no address"):
        await serve(app, "203.0.113.1", 0)


def test_exposure():
    for host in ("127.0.0.1", "127.0.0.5", "localhost", "::1"):
        check_exposure(host, None, False)
    for host in ("0.0.0.0", "::", "", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match="--api-key"):
            check_exposure(host, None, False)
        with pytest.raises(ConfigError, match="--api-key"):
            check_exposure(host, "", False)
        check_exposure(host, "key", False)
        check_exposure(host, None, True)

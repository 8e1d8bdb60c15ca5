"""Servers that are not what they seem: each is one clear line, or one answer that is a miss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted_server import Script, in_thread, scripted

from baton.bench.serve.asking import Asking, find
from baton.bench.serve.command import main
from baton.bench.serve.report import warnings
from baton.bench.serve.run import serve
from baton.bench.serve.text import measured
from baton.bench.workloads.arrival import Arrival
from baton.protocol.errors import ConfigError
from baton.protocol.records import Targets
from baton.protocol.tokens import pack_tokens


def some(number: int) -> Iterator[Arrival]:
    """Prompts of three tokens that begin with the number."""
    for n in range(number):
        yield Arrival(n * 0.005, lambda n=n: pack_tokens([n, 1, 2]), 4, 99, n,
                      targets=Targets(ttft=60.0))


@pytest.mark.parametrize(("models", "said"), [
    ([{"id": "m"}], r'it says \[\{"id": "m"\}\], where \{"data": \[\{"id": ...\}\]\} is meant'),
    ({"data": ["m"]}, "it says .*, where"),
    ({"data": [{"name": "m"}]}, "it says .*, where"),
    ({"data": {"id": "m"}}, "it says .*, where"),
    ({"data": []}, "status 200, no model"),
    ({}, "status 200, no model"),
    ("<html>\n<body>\nWelcome</body></html>", "it says no JSON, but: <html> <body> Welcome"),
])
async def test_what_is_no_list_of_models_is_one_line(models: Any, said: str) -> None:
    async with scripted(models=models) as server:
        with pytest.raises(ConfigError, match=f"/v1/models does not answer with a model: {said}"
                           ) as told:
            await find(server.url, Asking())
    assert "\n" not in str(told.value)


async def test_a_context_that_is_no_number_is_not_known() -> None:
    for told, known in ((None, None), ("long", None), (0, None), (512, 512)):
        models = {"data": [{"id": "scripted", "max_model_len": told}]}
        async with scripted(models=models) as server:
            assert (await find(server.url, Asking())).max_model_len == known


@pytest.mark.parametrize(("plain", "said"), [
    ('{"choices": [{"text": "whole"}],\n "usage": {"completion_tokens": 4}}',
     'no stream of tokens: no server-sent events, but: \\{"choices"'),
    ("<html>busy</html>", "no server-sent events, but: <html>busy"),
    ("", "no stream of tokens: nothing"),
    ("data: [DONE]\n\n", "no stream of tokens"),
])
async def test_a_server_that_does_not_stream_is_one_line(plain: str, said: str) -> None:
    async with scripted(first=Script(plain=plain)) as server:
        with pytest.raises(ConfigError, match=said) as told:
            await find(server.url, Asking())
    assert "\n" not in str(told.value)


async def test_one_answer_that_is_no_stream_is_an_error_and_told() -> None:
    async with scripted([Script(plain="<html>\nbusy</html>")]) as server:
        served = await serve(server.url, some(3))
    assert [seen.outcome for seen in served.requests] == ["error no_stream", "length", "length"]
    found = served.summary()
    assert found["attainment"] == pytest.approx(2 / 3, abs=1e-3)
    assert "a server said: no server-sent events, but: <html> busy</html>" in warnings(
        served, found)


async def test_comments_and_names_of_events_are_a_stream() -> None:
    text = (': hello\n\nevent: x\r\ndata: {"choices": [{"text": "a", "finish_reason": "stop"}]}'
            "\r\n\r\n")
    async with scripted([Script(plain=text)]) as server:
        served = await serve(server.url, some(1))
    assert served.requests[0].outcome == "stop"


async def test_a_text_that_the_tokenizer_does_not_take_is_counted_without_it() -> None:
    def refuses(text: str) -> int:
        raise ValueError("no such text")

    async with scripted([Script(chunks=(2, 2))], tells_ids=False) as server:
        served = await serve(server.url, some(1), tokenize=refuses)
    assert (served.requests[0].tokens, served.requests[0].counted_by) == (4, "share of text")
    assert any("tokens are counted by" in line for line in warnings(served, served.summary()))


async def test_text_that_cannot_be_as_long_as_asked_for_is_said() -> None:
    """A server that counts a token for every thousand characters."""
    async def tokens_of(prompt: str) -> int | None:
        return 1 + len(prompt) // 1000

    with pytest.raises(ConfigError, match="64 of them are longer than the whole text, which has"):
        await measured("word " * 2000, tokens_of)


def test_a_server_that_bills_no_prompt_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    with in_thread(usage=False) as url:
        assert main([url, "--text", "--concurrency", "1", "--requests", "1", "--warmup", "0s",
                     "--quiet", "--prompt", "100", "--output", "4"]) == 0
    assert "the server does not say how many tokens a text has" in " ".join(
        capsys.readouterr().out.split())

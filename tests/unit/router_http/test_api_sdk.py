"""The OpenAI Python SDK as the client, over a real port."""

from __future__ import annotations

from itertools import pairwise

import openai
import pytest

from baton.protocol.errors import BatonError
from baton.protocol.tokens import unpack_tokens

USER = {"role": "user", "content": "hello"}


@pytest.fixture
async def sdk(server):
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60
    ) as client:
        yield client


async def test_models(sdk):
    models = (await sdk.models.list()).data
    assert [model.id for model in models] == ["tiny"]
    assert (await sdk.models.retrieve("tiny")).owned_by == "baton"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("other")


async def test_completion(sdk, server, tokenizer):
    answer = await sdk.completions.create(model="tiny", prompt="two plus", max_tokens=50)
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.model == "tiny"
    assert answer.system_fingerprint == "fp-1"
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, choice.logprobs) == ("one two three", "stop", None)
    prompt_len = len(tokenizer.encode("two plus"))
    output_len = len(tokenizer.encode("one two three")) + 1
    assert answer.usage.prompt_tokens == prompt_len
    assert answer.usage.completion_tokens == output_len
    assert answer.usage.total_tokens == prompt_len + output_len
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    request = server.service.flights[0].request
    assert unpack_tokens(request.prompt) == tokenizer.encode("two plus")
    assert request.key.request_id == f"{answer.id}/0"
    assert request.eos_token_ids == (0,)
    assert server.service.flights[0].cancelled is None


async def test_sampling_parameters_arrive(sdk, server):
    await sdk.completions.create(
        model="tiny", prompt="x", max_tokens=7, temperature=0.5, top_p=0.9, presence_penalty=1,
        frequency_penalty=-1, logit_bias={"5": -100}, seed=-1, logprobs=2,
        extra_body={"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True,
                    "min_tokens": 2, "stop_token_ids": [7], "cache_salt": "tenant"},
    )
    request = server.service.flights[0].request
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.logprobs) == (7, 2, 2)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 40)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.2)
    assert sampling.logit_bias == ((5, -100.0),)
    assert (sampling.seed, sampling.ignore_eos) == (2**63 - 1, True)
    assert sampling.stop_token_ids == (7,)
    assert request.cache_salt == "tenant"


async def test_defaults(sdk, server, tokenizer):
    await sdk.completions.create(model="tiny", prompt="x")
    await sdk.completions.create(model="tiny", prompt="x")
    await sdk.chat.completions.create(model="tiny", messages=[USER])
    first, second, chat = [flight.request for flight in server.service.flights]
    assert first.sampling.max_tokens == 16
    assert (first.sampling.temperature, first.sampling.top_p) == (1.0, 1.0)
    assert first.sampling.seed != second.sampling.seed
    assert chat.sampling.max_tokens == 256 - len(unpack_tokens(chat.prompt))


async def test_completion_stream(sdk):
    stream = await sdk.completions.create(
        model="tiny", prompt="x", max_tokens=50, stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "one two three"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 3
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 3
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 3


async def test_each_event_can_say_what_was_used_until_then(sdk):
    for create in (
        lambda **more: sdk.completions.create(prompt="x", **more),
        lambda **more: sdk.chat.completions.create(messages=[USER], **more),
    ):
        stream = await create(
            model="tiny", max_tokens=50, stream=True,
            stream_options={"include_usage": True, "continuous_usage_stats": True},
        )
        used = [chunk.usage async for chunk in stream]
        counts = [usage.completion_tokens for usage in used]
        assert counts == sorted(counts)
        assert counts[0] < counts[-2] == counts[-1]
        assert {u.total_tokens - u.completion_tokens for u in used} == {used[-1].prompt_tokens}


async def test_chat(sdk, server, tokenizer):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hel"},
                                     {"type": "text", "text": "lo"}]},
    ]
    answer = await sdk.chat.completions.create(model="tiny", messages=messages)
    assert answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content == "one two three"
    assert choice.finish_reason == "stop"
    prompt = unpack_tokens(server.service.flights[0].request.prompt)
    assert tokenizer.decode(prompt, skip_special_tokens=False) == (
        "<|system|>be brief<|end|><|user|>hello<|end|><|assistant|>"
    )
    # What the SDK returned can be sent back as it is.
    messages += [choice.message.model_dump(), USER]
    await sdk.chat.completions.create(model="tiny", messages=messages)


async def test_chat_stream(sdk):
    stream = await sdk.chat.completions.create(
        model="tiny", messages=[USER], stream=True, max_completion_tokens=4
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.choices[0].delta.role is None for chunk in chunks[1:])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "one two three".startswith(text)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].usage is None


async def test_several_choices_and_prompts(sdk, server):
    answer = await sdk.completions.create(
        model="tiny", prompt=["first", "second"], n=2, max_tokens=50
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in answer.choices} == {"one two three"}
    requests = [flight.request for flight in server.service.flights]
    assert [request.choice for request in requests] == [0, 1, 0, 1]
    assert len({request.key for request in requests}) == 4
    assert len({request.sampling.seed for request in requests[:2]}) == 1
    assert answer.usage.prompt_tokens_details.cached_tokens == 6


async def test_streams_of_several_choices_interleave(sdk):
    stream = await sdk.chat.completions.create(
        model="tiny", messages=[USER], n=2, stream=True
    )
    texts, roles, ends, order = ["", ""], [0, 0], [0, 0], []
    async for chunk in stream:
        choice = chunk.choices[0]
        order.append(choice.index)
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role == "assistant"
        ends[choice.index] += choice.finish_reason == "stop"
    assert texts == ["one two three"] * 2
    assert (roles, ends) == ([1, 1], [1, 1])
    assert sum(a != b for a, b in pairwise(order)) > 2


@pytest.mark.parametrize("stream", [False, True])
async def test_completion_logprobs(sdk, tokenizer, stream):
    answer = await sdk.completions.create(
        model="tiny", prompt="x", max_tokens=50, logprobs=2, stream=stream
    )
    choices = [c.choices[0] async for c in answer] if stream else [answer.choices[0]]
    tokens = [token for choice in choices for token in choice.logprobs.tokens]
    assert "".join(tokens) == "one two three"
    assert [p for c in choices for p in c.logprobs.token_logprobs] == [-0.5] * len(tokens)
    assert all(len(top) == 2 for c in choices for top in c.logprobs.top_logprobs)
    offsets = [offset for choice in choices for offset in choice.logprobs.text_offset]
    assert offsets == [len("".join(tokens[:i])) for i in range(len(tokens))]


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_logprobs(sdk, stream):
    answer = await sdk.chat.completions.create(
        model="tiny", messages=[USER], logprobs=True, top_logprobs=3, stream=stream
    )
    choices = [c.choices[0] async for c in answer] if stream else [answer.choices[0]]
    content = [
        item for choice in choices if choice.logprobs for item in choice.logprobs.content
    ]
    assert "".join(item.token for item in content) == "one two three"
    assert bytes(byte for item in content for byte in item.bytes) == b"one two three"
    assert all(item.logprob == -0.5 and len(item.top_logprobs) == 3 for item in content)


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_with_prompt_logprobs(sdk, server, tokenizer, stream):
    answer = await sdk.completions.create(
        model="tiny", prompt="naïve fox", max_tokens=50, echo=True, logprobs=1, stream=stream
    )
    choices = [c.choices[0] async for c in answer] if stream else [answer.choices[0]]
    assert "".join(choice.text for choice in choices) == "naïve foxone two three"
    logprobs = [p for choice in choices for p in choice.logprobs.token_logprobs]
    assert logprobs[0] is None
    assert len(logprobs) == len(tokenizer.encode("naïve fox") + tokenizer.encode("one two three"))
    offsets = [offset for choice in choices for offset in choice.logprobs.text_offset]
    assert len("naïve fox") in offsets
    assert offsets == sorted(offsets)
    assert server.service.flights[0].request.sampling.prompt_logprobs == 1


async def test_scoring_without_output(sdk, server, tokenizer):
    answer = await sdk.completions.create(
        model="tiny", prompt=tokenizer.encode("fox"), max_tokens=0, echo=True, logprobs=0
    )
    assert answer.choices[0].text == "fox"
    assert answer.choices[0].finish_reason == "length"
    assert len(answer.choices[0].logprobs.tokens) == len(tokenizer.encode("fox"))
    assert answer.usage.completion_tokens == 0
    assert server.service.flights[0].request.sampling.max_tokens == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_stop_string(sdk, server, tokenizer, stream):
    server.service.script = server.service.hangs_after("one two three four")
    answer = await sdk.completions.create(
        model="tiny", prompt="x", max_tokens=50, stop=["o th", "never"], stream=stream
    )
    choices = [c.choices[0] async for c in answer] if stream else [answer.choices[0]]
    assert "".join(choice.text for choice in choices) == "one tw"
    assert choices[-1].finish_reason == "stop"
    flight = server.service.flights[0]
    assert flight.finished_early
    assert flight.cancelled is None


async def test_failures_reach_the_sdk(sdk, server):
    service = server.service
    service.refusal = BatonError("queue_full", "full", retry_after=1)
    with pytest.raises(openai.RateLimitError):
        await sdk.completions.create(model="tiny", prompt="x")
    service.refusal = None
    service.script = service.fails_after("", BatonError("worker_lost", "it died"))
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk.chat.completions.create(model="tiny", messages=[USER], stream=True)
    assert caught.value.status_code == 503
    service.script = service.fails_after("one two", BatonError("worker_lost", "it died"))
    stream = await sdk.chat.completions.create(model="tiny", messages=[USER], stream=True)
    with pytest.raises(openai.APIError, match="it died"):
        async for _ in stream:
            pass
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await sdk.completions.create(model="tiny", prompt="x", temperature=3)

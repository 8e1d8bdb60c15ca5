"""The main job, end to end: text in, text out, KV handed over in between."""

from __future__ import annotations

import json
import urllib.error

import openai
import psutil
import pytest
from cluster import Cluster, wait_for

QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


def client_of(cluster: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0)


def test_answers_a_real_question(split: Cluster) -> None:
    reply = split.post("/v1/chat/completions", {
        "model": split.get("/v1/models")["data"][0]["id"],
        "messages": QUESTION, "temperature": 0, "max_tokens": 40,
    })
    assert "light" in reply["choices"][0]["message"]["content"]
    assert reply["usage"]["completion_tokens"] > 0


def test_openai_sdk_streams_the_same_text(split: Cluster) -> None:
    client = client_of(split)
    model = client.models.list().data[0].id
    whole = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=24)
    chunks = list(client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=24, stream=True,
        stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_blocks_moved_over_ucx(split: Cluster) -> None:
    before = split.metric_sum("baton_kv_transfer_bytes_total")
    split.post("/v1/completions", {
        "prompt": "A list of colours that nobody has asked for yet: " * 12,
        "max_tokens": 4, "temperature": 0})
    wait_for(
        lambda: split.metric_sum("baton_kv_transfer_bytes_total") > before,
        "transferred bytes in /metrics", 10)
    carriers = {
        key for key, value in split.metrics().items()
        if key.startswith("baton_kv_transfer_bytes_total{") and value > 0
    }
    assert any('transport="' in carrier for carrier in carriers), carriers
    assert not any("tcp" in carrier for carrier in carriers), "same host, yet TCP"


def test_second_time_is_cached(split: Cluster) -> None:
    body = {"prompt": "The quick brown fox jumps over the lazy dog. " * 20, "max_tokens": 4,
            "temperature": 0}
    cold = split.post("/v1/completions", body)
    warm = split.post("/v1/completions", body)
    assert warm["choices"][0]["text"] == cold["choices"][0]["text"]
    assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_one_token_too_long_is_refused_with_the_numbers(split: Cluster) -> None:
    card = split.get("/v1/models")["data"][0]
    limit = card["max_model_len"]
    with pytest.raises(urllib.error.HTTPError) as refusal:
        split.post("/v1/completions", {"prompt": [5] * (limit - 3), "max_tokens": 4})
    error = json.load(refusal.value)["error"]
    assert refusal.value.code == 400
    assert error["code"] == "context_length_exceeded"
    assert str(limit) in error["message"]


def test_workers_are_listed(split: Cluster) -> None:
    workers = split.workers()
    assert sorted(w["role"] for w in workers) == ["decode", "prefill"]
    for worker in workers:
        assert psutil.pid_exists(worker["pid"])
        assert worker["epoch"]
        assert sum(worker["blocks"].values()) > 0

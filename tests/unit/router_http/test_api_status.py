"""Probes, metrics, tokenizing, the OpenAPI page and the list of workers."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from baton.protocol.records import BlockCounts, Load, WorkerMetrics

LOAD = Load(
    role="decode",
    state="ready",
    waiting=1,
    running=2,
    handoffs=3,
    waiting_tokens=40,
    blocks=BlockCounts(free=10, cached=4, active=3, held=2, quarantined=1),
    step_age=0.5,
    steps=100,
    preemptions=0,
)


async def get(server, path: str):
    async with server.http.get(server.url + path) as response:
        return response.status, await response.json()


async def test_health_and_ready(server):
    assert await get(server, "/health") == (200, {"status": "ok"})
    assert await get(server, "/ready") == (200, {"status": "ready"})
    server.service.ready = False
    status, body = await get(server, "/ready")
    assert status == 503
    assert body["reason"] == "no worker has joined yet"
    assert (await get(server, "/health"))[0] == 200


async def test_workers(server):
    status, body = await get(server, "/admin/workers")
    assert status == 200
    assert body == {"workers": [{"worker_id": "worker-1", "role": "prefill"}]}


async def test_drain_and_undrain(server):
    status, body, _ = await server.post("/admin/workers/worker-1/drain", {})
    assert (status, body) == (200, {"worker": {"worker_id": "worker-1", "role": "prefill"}})
    assert server.service.drained
    status, _, _ = await server.post("/admin/workers/worker-1/undrain", {})
    assert (status, server.service.drained) == (200, False)
    status, body, _ = await server.post("/admin/workers/worker-9/drain", {})
    assert (status, body["error"]["code"]) == (404, "not_found")
    assert "worker-9" in body["error"]["message"]
    status, body = await get(server, "/admin/workers/worker-1/drain")
    assert (status, body["error"]["code"]) == (405, "method_not_allowed")


async def test_tokenize_and_back(server, tokenizer):
    status, body, _ = await server.post("/tokenize", {"prompt": "naïve 🙂"})
    ids = tokenizer.encode("naïve 🙂")
    assert (status, body) == (200, {"tokens": ids, "count": len(ids), "max_model_len": 256})
    status, body, _ = await server.post("/detokenize", {"tokens": ids})
    assert (status, body) == (200, {"prompt": "naïve 🙂"})
    message = {"role": "user", "content": "hi"}
    _, body, _ = await server.post("/tokenize", {"messages": [message]})
    text = tokenizer.decode(body["tokens"], skip_special_tokens=False)
    assert text == "<|user|>hi<|end|><|assistant|>"
    _, body, _ = await server.post("/tokenize", {"prompt": ""})
    assert body["count"] == 0
    status, body, _ = await server.post("/detokenize", {"tokens": [10**6]})
    assert (status, body["error"]["param"]) == (400, "tokens")
    status, body, _ = await server.post("/tokenize", {})
    assert (status, body["error"]["code"]) == (400, "missing_parameter")
    status, body, _ = await server.post("/detokenize", {"tokens": "a"})
    assert (status, body["error"]["param"]) == (400, "tokens")


async def test_openapi(server):
    status, page = await get(server, "/openapi.json")
    assert status == 200
    served = {
        route.resource.canonical.replace(":.+}", "}")
        for route in server_routes(server)
    }
    assert set(page["paths"]) == served
    schema = page["components"]["schemas"]["ChatRequest"]["properties"]
    assert schema["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}
    assert page["components"]["schemas"]["ChatRequest"]["additionalProperties"] is False


def server_routes(server):
    from baton.router.http import create_app

    app = create_app(
        server.service, server.tokenizer, served_model_name="tiny", metrics=server.metrics
    )
    return [route for route in app.router.routes() if route.resource is not None]


async def test_metrics_page(server):
    metrics = server.metrics
    await server.post("/v1/completions", {"prompt": "one two", "max_tokens": 50})
    metrics.decision("remote", "cheapest")
    metrics.flight_finished("stop", {"queue": 0.1, "prefill": 0.2})
    metrics.queue_depth("router", 4)
    metrics.queued("router", 0.01)
    metrics.retry("busy")
    metrics.migration("moved")
    metrics.worker_load("w1", LOAD)
    metrics.worker_metrics(
        "w1",
        WorkerMetrics(
            samples=(
                ("baton_kv_transfer_bytes", "baton_kv_transfer_bytes_total",
                 {"transport": "posix"}, 5.0),
            ),
            types={"baton_kv_transfer_bytes": ("counter", "Bytes of KV moved")},
        ),
    )
    async with server.http.get(server.url + "/metrics") as response:
        assert response.content_type == "text/plain"
        page = await response.text()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["baton_requests_total", ("outcome", "completed")] == 1
    assert samples["baton_tokens_total", ("kind", "output")] > 3
    assert samples["baton_tokens_total", ("kind", "prompt")] > 1
    assert samples["baton_prefix_cache_hit_tokens_total",] == 3
    assert samples["baton_ttft_seconds_count",] == 1
    assert samples["baton_itl_seconds_count",] > 2
    assert samples["baton_e2e_seconds_count",] == 1
    assert samples["baton_route_decisions_total", ("reason", "cheapest"), ("route", "remote")] == 1
    assert samples["baton_phase_seconds_count", ("phase", "prefill")] == 1
    assert samples["baton_migrations_total", ("outcome", "moved")] == 1
    assert samples["baton_queue_depth", ("stage", "router")] == 4
    assert samples["baton_kv_blocks", ("state", "held"), ("worker", "w1")] == 2
    assert samples["baton_pool_workers", ("role", "decode")] == 1
    assert samples["baton_pool_workers", ("role", "prefill")] == 0
    assert samples[
        "baton_kv_transfer_bytes_total", ("transport", "posix"), ("worker", "w1")
    ] == 5
    metrics.worker_gone("w1")
    metrics.worker_gone("w1")
    assert server.sample("baton_kv_blocks", worker="w1", state="held") == 0
    assert server.sample("baton_pool_workers", role="decode") == 0


async def test_stops_and_failures_in_the_metrics(server):
    server.service.script = server.service.hangs_after("one two three")
    status, body, _ = await server.post("/v1/completions", {"prompt": "x", "stop": "two"})
    assert (status, body["choices"][0]["text"]) == (200, "one ")
    assert server.sample("baton_tokens_total", kind="output") == (
        body["usage"]["completion_tokens"]
    )

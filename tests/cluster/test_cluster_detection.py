"""How fast a killed worker is noticed, and its requests are with others again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from cluster import ATTEMPTS, Cluster, held, wait_for
from tiny_model import make_tiny_model

REQUESTS = 60
"""As many as one worker may run, so that those of a dead one find room at once."""
MAX_TOKENS = 600
"""Many of them are in their middle when all prompts are computed."""
MOST_TOKENS = 1900
FEW_TOKENS = 120


def long_model(folder: Path) -> Path:
    return make_tiny_model(folder / "tiny", max_position=2048)


async def tokens_of(session: aiohttp.ClientSession, url: str, number: int) -> int:
    body = {
        "prompt": [5 + number, 17, 23 + number % 7] * (1 + number % 20), "temperature": 0,
        "max_tokens": MAX_TOKENS, "ignore_eos": True,
    }
    async with session.post(f"{url}/v1/completions", json=body) as reply:
        assert reply.status == 200, await reply.text()
        return int((await reply.json())["usage"]["completion_tokens"])


def counts(cluster: Cluster) -> tuple[float, float]:
    """Requests that ever came, and of how many the first token did."""
    samples = cluster.metrics()
    ended = sum(value for name, value in samples.items() if name.startswith("baton_requests_total"))
    return samples["baton_active_requests"] + ended, samples["baton_ttft_seconds_count"]


def all_decode(cluster: Cluster, before: tuple[float, float]) -> bool:
    """Not while the router still reads some, which would be timed as well; nor while prompts wait,
    for then nobody has room at once."""
    began, first_tokens = counts(cluster)
    return (
        began - before[0] == first_tokens - before[1] == REQUESTS
        and not cluster.metric_sum("baton_queue_depth")
    )


def kill_one(cluster: Cluster, role: str, before: tuple[float, float]) -> bool:
    """Whether it still had requests, when all were decoded."""
    wait_for(lambda: all_decode(cluster, before), "all are decoded")
    workers = [worker for worker in cluster.workers() if worker["role"] == role]
    with held(worker["pid"] for worker in workers):
        victim = max(
            (worker for worker in cluster.workers() if worker["role"] == role),
            key=lambda worker: int(worker["outstanding"]),
        )
        if victim["outstanding"] < REQUESTS / 10:
            return False
        os.kill(victim["pid"], signal.SIGKILL)
        return True


async def kill_under_load(cluster: Cluster, role: str) -> list[int]:
    """How many tokens each request got."""
    timeout = aiohttp.ClientTimeout(total=100)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        for _ in range(ATTEMPTS):
            before = counts(cluster)
            running = asyncio.gather(
                *(tokens_of(session, cluster.url, number) for number in range(REQUESTS))
            )
            killed = await asyncio.to_thread(kill_one, cluster, role, before)
            tokens = await running
            if killed:
                return tokens
        pytest.fail("too late each time: they had ended")


def buckets(samples: dict[str, float], name: str) -> dict[str, dict[str, float]]:
    """Of a histogram with one label: label value to {upper bound: cumulative count}."""
    found: dict[str, dict[str, float]] = {}
    for text, value in samples.items():
        if text.startswith(f"{name}_bucket{{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', text))
            bound = labels.pop("le")
            (label,) = labels.values()
            found.setdefault(label, {})[bound] = value
    return found


@pytest.mark.parametrize(("role", "layout", "workers"), [
    ("decode", ("--prefill", "1", "--decode", "2"), 3), ("mixed", ("--mixed", "2"), 2),
])
def test_a_killed_worker_is_noticed_and_replaced_at_once(
    role: str, layout: tuple[str, ...], workers: int, tmp_path: Path
) -> None:
    """By the kernel's word: here silence takes longer than the test. How long that takes is judged
    by `baton bench faults`: here others may want the cores. Usual are 5 ms for whatever finds room
    elsewhere; what would wait for a heartbeat takes more than half a second."""
    with Cluster(*layout, "--dtype", "float32", model=long_model(tmp_path)) as cluster:
        tokens = asyncio.run(kill_under_load(cluster, role))
        assert tokens == [MAX_TOKENS] * REQUESTS
        samples = cluster.metrics()
        detection = buckets(samples, "baton_worker_detection_seconds")
        assert set(detection) == {"process"}, "the kernel's word did not come first"
        assert detection["process"]["+Inf"] == 1
        redispatch = buckets(samples, "baton_redispatch_seconds")
        assert "nothing" in redispatch, f"nobody found room at once: {redispatch}"
        at_once = redispatch["nothing"]
        assert at_once["+Inf"] == at_once["0.5"] >= 1
        redispatched = sum(by_bound["+Inf"] for by_bound in redispatch.values())
        assert redispatched == samples['baton_retries_total{reason="worker_lost"}']
        wait_for(
            lambda: [w["state"] for w in cluster.workers()] == ["ready"] * workers,
            "the worker is back")


def end_its_worker(cluster: Cluster, how: signal.Signals, ended: set[int]) -> bool:
    """Of the one request. False: it is with nobody any more, or with one that was ended."""
    with held(w["pid"] for w in cluster.workers() if w["pid"] not in ended):
        has_it = [w["pid"] for w in cluster.workers() if w["outstanding"]]
        if len(has_it) != 1 or has_it[0] in ended:
            return False
        os.kill(has_it[0], how)
        ended.update(has_it)
    wait_for(
        lambda: not any(w["pid"] in ended and w["outstanding"] for w in cluster.workers()),
        "the request is taken from it",
    )
    return True


async def end_its_workers(
    cluster: Cluster, how: signal.Signals, ended: set[int]
) -> tuple[int, str | None, int]:
    """Of one stream, twice, each time after it brought tokens from a worker that was not ended yet:
    the tokens it brought in all, the code of its error, and how often there was such a worker.
    `ended` gets those that were."""
    tokens, error, times = 0, None, 0
    body = {"prompt": [5, 17, 23], "max_tokens": MOST_TOKENS, "ignore_eos": True,
            "temperature": 0, "stream": True, "return_token_ids": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{cluster.url}/v1/completions", json=body) as reply,
    ):
        until_next = 1
        async for raw in reply.content:
            line = raw.decode().strip()
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                error = event["error"]["code"]
                break
            tokens += len(event["choices"][0].get("token_ids", []))
            if tokens >= until_next and times < 2:
                times += await asyncio.to_thread(end_its_worker, cluster, how, ended)
                # What was on its way when it was taken away is no sign of its next worker.
                until_next = tokens + FEW_TOKENS
    return tokens, error, times


def end_two_of_its_workers(
    cluster: Cluster, how: signal.Signals
) -> tuple[int, str | None, set[int], int]:
    """Of a stream that had not ended before: its tokens, the code of its error, and the workers
    that had nothing to do with it; and how many were ended in all, also for one that had."""
    ended: set[int] = set()
    for _ in range(ATTEMPTS):
        wait_for(
            lambda: sum(w["state"] == "ready" and w["pid"] not in ended
                        for w in cluster.workers()) == 3,
            "three workers",
        )
        before = {w["pid"] for w in cluster.workers()}
        tokens, error, times = asyncio.run(end_its_workers(cluster, how, ended))
        if times == 2:
            return tokens, error, before - ended, len(ended)
    pytest.fail("too late each time: it had ended")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster("--mixed", "3", model=long_model(tmp_path_factory.mktemp("model"))) as cluster:
        yield cluster


def noticed(cluster: Cluster) -> float:
    return cluster.metric_sum("baton_worker_detection_seconds_count")


def test_a_request_that_cost_two_lives_costs_no_third(three: Cluster) -> None:
    before = noticed(three)
    _, error, third, deaths = end_two_of_its_workers(three, signal.SIGKILL)
    assert error == "too_many_failures"
    assert len(third) == 1
    assert third <= {w["pid"] for w in three.workers() if w["state"] == "ready"}
    assert noticed(three) == before + deaths


def test_workers_that_are_stopped_as_intended_are_no_deaths(three: Cluster) -> None:
    before = noticed(three)
    tokens, error, *_ = end_two_of_its_workers(three, signal.SIGTERM)
    assert (tokens, error) == (MOST_TOKENS, None)
    assert noticed(three) == before
    wait_for(
        lambda: [w["state"] for w in three.workers()] == ["ready"] * 3, "the workers are back"
    )

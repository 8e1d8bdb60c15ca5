"""Workers that die under load, and load beyond what can be queued."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cluster import Cluster, wait_for


async def stream(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a client sees of one stream: token ids, finish reason, error, whether [DONE] came."""
    seen: dict[str, Any] = {"ids": [], "finish": None, "error": None, "done": False, "status": 0}
    async with session.post(
        f"{url}/v1/completions", json={**body, "stream": True, "return_token_ids": True}
    ) as reply:
        seen["status"] = reply.status
        async for raw in reply.content:
            line = raw.decode().strip()
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                seen["done"] = True
                continue
            event = json.loads(line[6:])
            if "error" in event:
                seen["error"] = event["error"]
                continue
            choice = event["choices"][0]
            seen["ids"] += choice.get("token_ids", [])
            seen["finish"] = choice["finish_reason"] or seen["finish"]
    return seen


async def many(url: str, bodies: list[dict[str, Any]], after: asyncio.Event | None = None) -> Any:
    timeout = aiohttp.ClientTimeout(total=100)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        return await asyncio.gather(*(stream(session, url, body) for body in bodies))


def bodies(count: int, max_tokens: int = 60) -> list[dict[str, Any]]:
    return [
        {"prompt": [5 + number, 17, 23 + number % 7] * (1 + number % 20), "temperature": 0,
         "max_tokens": max_tokens, "ignore_eos": True}
        for number in range(count)
    ]


@pytest.mark.parametrize("victim", ["prefill", "decode"])
def test_one_of_two_workers_dies_and_no_client_notices(victim: str, tiny_model: Path) -> None:
    """Float32 greedy: the same tokens as without the death, none repeated, none lost."""
    work = bodies(40, max_tokens=300)
    with Cluster("--prefill", "2", "--decode", "2", "--dtype", "float32",
                 model=tiny_model) as cluster:
        undisturbed = asyncio.run(many(cluster.url, work))

        async def with_a_death() -> Any:
            held = [w["pid"] for w in cluster.workers() if w["role"] == victim == "prefill"]
            for pid in held:  # they would be through with such prompts between two looks
                os.kill(pid, signal.SIGSTOP)
            running = asyncio.ensure_future(many(cluster.url, work))
            busy = await asyncio.to_thread(
                wait_for,
                lambda: next(
                    (w for w in cluster.workers()
                     if w["role"] == victim and w["outstanding"] > 0), None),
                f"a {victim} worker with work")
            os.kill(busy["pid"], signal.SIGKILL)
            for pid in held:
                if pid != busy["pid"]:
                    os.kill(pid, signal.SIGCONT)
            return await running

        disturbed = asyncio.run(with_a_death())
        assert [r["error"] for r in disturbed] == [None] * len(work)
        assert all(r["done"] for r in disturbed)
        assert [len(r["ids"]) for r in disturbed] == [300] * len(work)
        differ = [i for i, (a, b) in enumerate(zip(undisturbed, disturbed, strict=True))
                  if a["ids"] != b["ids"]]
        assert not differ, f"{len(differ)} outputs changed: {differ}"
        wait_for(lambda: len(cluster.workers()) == 4, "the worker is back", 30)


def test_a_worker_that_was_stopped_for_long_comes_back_as_another_life(tiny_model: Path) -> None:
    """It finds itself late and ends; what was its own runs elsewhere, with the same tokens."""
    work = bodies(40, max_tokens=300)
    with Cluster("--prefill", "2", "--decode", "2", "--dtype", "float32",
                 model=tiny_model) as cluster:
        undisturbed = asyncio.run(many(cluster.url, work))

        async def stopped() -> tuple[dict[str, Any], Any]:
            running = asyncio.ensure_future(many(cluster.url, work))
            busy = await asyncio.to_thread(
                wait_for,
                lambda: next((w for w in cluster.workers()
                              if w["role"] == "decode" and w["outstanding"] > 0), None),
                "a decode worker with work")
            os.kill(busy["pid"], signal.SIGSTOP)
            try:
                return busy, await running  # others end what it had
            finally:
                os.kill(busy["pid"], signal.SIGCONT)

        victim, disturbed = asyncio.run(stopped())
        assert [r["ids"] for r in disturbed] == [r["ids"] for r in undisturbed]

        def now() -> dict[str, Any]:
            return next(w for w in cluster.workers() if w["id"] == victim["id"])

        def is_another() -> bool:
            return now()["state"] == "ready" and now()["pid"] != victim["pid"]

        wait_for(is_another, "another life of the stopped worker", 30)
        assert now()["epoch"] != victim["epoch"]
        again = asyncio.run(many(cluster.url, work))
        assert [r["ids"] for r in again] == [r["ids"] for r in undisturbed]
        cluster.assert_clean()


def test_the_only_decode_worker_dies_after_the_first_byte(tiny_model: Path) -> None:
    cluster = Cluster("--mixed", "1", "--no-restart", model=tiny_model).start()
    try:
        async def run() -> dict[str, Any]:
            async with aiohttp.ClientSession() as session:
                async def kill_soon() -> None:
                    await asyncio.to_thread(
                        wait_for, lambda: cluster.workers()[0]["outstanding"] > 0, "a request")
                    os.kill(cluster.workers()[0]["pid"], signal.SIGKILL)

                killing = asyncio.ensure_future(kill_soon())
                seen = await stream(session, cluster.url, bodies(1, max_tokens=500)[0])
                await killing
                return seen

        seen = asyncio.run(run())
        if seen["status"] == 200:
            assert seen["error"] is not None
            assert seen["error"]["code"] in ("worker_lost", "no_worker")
            assert not seen["done"]
            assert seen["finish"] is None
        else:
            assert seen["status"] == 503
    finally:
        cluster.stop()


def test_more_than_can_be_queued_is_told_when_to_come_back(tiny_model: Path) -> None:
    async def flood(url: str) -> list[tuple[int, str | None]]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            async def one(body: dict[str, Any]) -> tuple[int, str | None]:
                async with session.post(f"{url}/v1/completions", json=body) as reply:
                    await reply.read()
                    return reply.status, reply.headers.get("Retry-After")

            return await asyncio.gather(*(one(body) for body in bodies(60, max_tokens=100)))

    with Cluster("--max-queue", "8", "--max-running", "2", "--mixed", "1",
                 model=tiny_model) as cluster:
        answers = asyncio.run(flood(cluster.url))
        statuses = {status for status, _ in answers}
        assert statuses == {200, 429}
        assert all(int(after or 0) >= 1 for status, after in answers if status == 429)


@pytest.mark.parametrize(
    "layout", [("--mixed", "1"), ("--prefill", "1", "--decode", "1")], ids=["mixed", "split"]
)
def test_a_pool_too_small_for_all_preempts_and_loses_nothing(
    layout: tuple[str, ...], tiny_model: Path
) -> None:
    # Short prompts are all admitted at once; what they grow to does not fit by far.
    work = [{**body, "prompt": body["prompt"][:3]} for body in bodies(40, max_tokens=120)]
    with Cluster(*layout, "--dtype", "float32", model=tiny_model) as roomy:
        expected = asyncio.run(many(roomy.url, work))
    with Cluster(*layout, "--dtype", "float32", "--kv-blocks", "60",
                 "--max-model-len", "512", model=tiny_model) as tight:
        got = asyncio.run(many(tight.url, work))
        wait_for(
            lambda: sum(w["load"]["preemptions"] for w in tight.workers()) > 0,
            "a preemption: the pool was not tight", 5)
    assert [r["error"] for r in got] == [None] * len(work)
    assert [r["ids"] for r in got] == [r["ids"] for r in expected]

"""Clients that leave: everything they held is free again, and nothing grows."""

from __future__ import annotations

import asyncio
import random
import re
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from cluster import ATTEMPTS, Cluster, held, wait_for
from tiny_model import make_tiny_model

AT_ONCE = 48


async def storm(url: str, count: int, seed: int) -> tuple[int, int]:
    """`count` requests, a third of them cancelled when a random number of others have ended: so at
    random moments of their lives, however fast the machine is. (How many finished, and how many
    were cancelled.)"""
    rng = random.Random(seed)
    gate = asyncio.Semaphore(AT_ONCE)
    news = asyncio.Condition()
    finished = cancelled = 0

    async def whole(session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        async with asyncio.timeout(120), session.post(f"{url}/v1/completions", json=body) as reply:
            text = await reply.text()
            assert reply.status == 200, text
            assert '"error"' not in text, text

    async def others_end(count: int) -> None:
        async with news:
            until = finished + cancelled + count
            await news.wait_for(lambda: finished + cancelled >= until)

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal finished, cancelled
        body = {
            "prompt": [rng.randrange(5, 500) for _ in range(rng.randrange(1, 120))],
            "max_tokens": rng.randrange(1, 30),
            "ignore_eos": True,
            "stream": number % 2 == 0,
        }
        patience = rng.randrange(AT_ONCE) if number % 3 == 0 else count
        async with gate:
            request = asyncio.ensure_future(whole(session, body))
            leaving = asyncio.ensure_future(others_end(patience))
            await asyncio.wait({request, leaving}, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            if request.done():
                await request
                finished += 1
            else:
                request.cancel()
                await asyncio.wait({request})
                cancelled += 1
            async with news:
                news.notify_all()

    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*(one(session, number) for number in range(count)))
    return finished, cancelled


def footprint(cluster: Cluster) -> dict[str, int]:
    family = cluster.processes()
    return {
        "processes": len(family),
        "threads": sum(p.num_threads() for p in family),
        "descriptors": sum(p.num_fds() for p in family),
        "memory": sum(p.memory_info().rss for p in family),
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("warm_up", "requests"), [(400, 500), pytest.param(1000, 2000, marks=pytest.mark.soak)]
)
def test_many_requests_a_third_cancelled(warm_up: int, requests: int, tiny_model: Path) -> None:
    """`warm_up`: until every size of batch has been met: kernels for it are compiled and kept."""
    with Cluster("--kv-blocks", "600", model=tiny_model) as cluster:
        asyncio.run(storm(cluster.url, warm_up, seed=1))
        cluster.assert_clean()
        before = footprint(cluster)
        finished, cancelled = asyncio.run(storm(cluster.url, requests, seed=2))
        cluster.assert_clean()
        assert finished + cancelled == requests
        assert cancelled > requests // 10

        def settled() -> bool:
            now = footprint(cluster)
            return (now["processes"] == before["processes"]
                    and now["threads"] <= before["threads"] + 2
                    and now["descriptors"] <= before["descriptors"] + 8)

        wait_for(settled, f"processes, threads and descriptors as before {before}")
        after = footprint(cluster)
        print(f"finished {finished}, cancelled {cancelled}, before {before}, after {after}")
        assert after["memory"] <= before["memory"] * 1.1 + 32e6


def test_a_client_that_leaves_frees_both_sides_at_once(tmp_path: Path) -> None:
    tokens = 3900
    model = make_tiny_model(tmp_path / "tiny", max_position=4096)

    def steps() -> int:
        """Of the worker that decodes; as old as its heartbeat."""
        return max(int(worker["load"]["steps"]) for worker in cluster.workers())

    def decodes() -> bool:
        return any(worker["load"]["running"] for worker in cluster.workers())

    def outstanding() -> int:
        return sum(int(worker["outstanding"]) for worker in cluster.workers())

    async def leave() -> int:
        """Steps until the router knew that nobody waits for it; -1: it had ended before."""
        body = {"prompt": [7] * 100, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{cluster.url}/v1/completions", json=body) as reply,
        ):
            await reply.content.readline()
            await asyncio.to_thread(wait_for, decodes, "a heartbeat that tells of it")
            with held(worker["pid"] for worker in cluster.workers()):
                before = steps() if outstanding() else -1
                reply.close()
                await asyncio.to_thread(wait_for, lambda: not outstanding(), "the router's cancel")
            return before

    with Cluster(model=model) as cluster:
        left = (asyncio.run(leave()) for _ in range(ATTEMPTS))
        before = next(steps for steps in left if steps >= 0)
        wait_for(cluster.is_clean, "everything free after the client left")
        assert steps() - before < tokens / 2, "it was computed to its end"


def test_idle_costs_nothing(tiny_model: Path) -> None:
    with Cluster(model=tiny_model) as cluster:
        cluster.post("/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 3})
        cluster.assert_clean()
        family = cluster.processes()
        # The two workers have just met, and try out how blocks go best.
        way = "baton_kv_way_bytes_per_second"
        wait_for(lambda: cluster.metric_sum(way) > 0, "the way of blocks was chosen")

        spent, woken, start = busy(family), wakes(family), time.monotonic()
        # The time that passes is what is measured; there is no condition to wait for.
        time.sleep(3.0)
        window = time.monotonic() - start
        share, rate = (busy(family) - spent) / window, (wakes(family) - woken) / window
        print(f"idle cluster: {share:.2%} of one core, {rate:.0f} wakes a second")
        # How often something wakes does not depend on how fast the machine is, nor on others that
        # use it. A thread that looks every millisecond wakes a thousand times.
        assert rate < 500
        assert share < 0.2, "something waits without sleeping"


def busy(family: list[psutil.Process]) -> float:
    """CPU seconds of all these processes so far."""
    return sum(sum(process.cpu_times()[:2]) for process in family)


def wakes(family: list[psutil.Process]) -> int:
    """How often their threads have waited for something so far."""
    statuses = [
        status.read_text()
        for process in family
        for status in Path(f"/proc/{process.pid}/task").glob("*/status")
    ]
    return sum(int(re.findall(r"\nvoluntary_ctxt_switches:\s*(\d+)", text)[0]) for text in statuses)

"""Clients that leave: everything they held is free again, and nothing grows."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from statistics import median

import aiohttp
import psutil
import pytest
from cluster import Cluster, wait_for
from tiny_model import make_tiny_model


async def storm(
    url: str, count: int, seed: int, patience: float = 0.25
) -> tuple[list[float], int]:
    """`count` requests, a third of them cancelled at a random moment within so many seconds. (The
    seconds that each took that finished, how many were cancelled.)"""
    rng = random.Random(seed)
    gate = asyncio.Semaphore(48)
    finished: list[float] = []
    cancelled = 0

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal cancelled
        body = {
            "prompt": [rng.randrange(5, 500) for _ in range(rng.randrange(1, 200))],
            "max_tokens": rng.randrange(1, 40),
            "ignore_eos": True,
            "stream": number % 2 == 0,
        }
        seconds = rng.uniform(0, patience) if number % 3 == 0 else 120.0
        async with gate:
            began = time.monotonic()
            try:
                async with asyncio.timeout(seconds):
                    async with session.post(f"{url}/v1/completions", json=body) as reply:
                        text = await reply.text()
                        assert reply.status == 200, text
                        assert '"error"' not in text, text
                        finished.append(time.monotonic() - began)
            except TimeoutError:
                assert number % 3 == 0, "a request that nobody cancelled did not end"
                cancelled += 1

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
    ("warm_up", "requests"), [(500, 700), pytest.param(1000, 2000, marks=pytest.mark.soak)]
)
def test_many_requests_a_third_cancelled(warm_up: int, requests: int, tiny_model: Path) -> None:
    """`warm_up`: until every size of batch has been met: kernels for it are compiled and kept."""
    with Cluster("--kv-blocks", "600", model=tiny_model) as cluster:
        usual, _ = asyncio.run(storm(cluster.url, warm_up, seed=1))
        cluster.assert_clean()
        before = footprint(cluster)
        finished, cancelled = asyncio.run(
            storm(cluster.url, requests, seed=2, patience=1.5 * median(usual))
        )
        cluster.assert_clean()
        assert len(finished) + cancelled == requests
        assert cancelled > requests // 10

        def settled() -> bool:
            now = footprint(cluster)
            return (now["processes"] == before["processes"]
                    and now["threads"] <= before["threads"] + 2
                    and now["descriptors"] <= before["descriptors"] + 8)

        wait_for(settled, f"processes, threads and descriptors as before {before}", 15)
        after = footprint(cluster)
        print(f"finished {len(finished)}, cancelled {cancelled}, before {before}, after {after}")
        assert after["memory"] <= before["memory"] * 1.1 + 32e6


def test_a_client_that_leaves_frees_both_sides_at_once(tmp_path: Path) -> None:
    tokens = 3900
    model = make_tiny_model(tmp_path / "tiny", max_position=4096)

    def steps() -> int:
        """Of the worker that decodes; as old as its heartbeat."""
        return max(int(worker["load"]["steps"]) for worker in cluster.workers())

    def decodes() -> bool:
        return any(worker["load"]["running"] for worker in cluster.workers())

    async def leave() -> int:
        body = {"prompt": [7] * 100, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{cluster.url}/v1/completions", json=body) as reply,
        ):
            await reply.content.readline()
            await asyncio.to_thread(wait_for, decodes, "a heartbeat that tells of it")
            before = steps()
            reply.close()
            return before

    with Cluster(model=model) as cluster:
        before = asyncio.run(leave())
        wait_for(cluster.is_clean, "everything free after the client left", 15)
        assert steps() - before < tokens / 2, "it was computed to its end"


def test_idle_costs_nothing(tiny_model: Path) -> None:
    with Cluster(model=tiny_model) as cluster:
        cluster.post("/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 3})
        cluster.assert_clean()
        family = cluster.processes()
        # The two workers have just met, and try out how blocks go best.
        way = "baton_kv_way_bytes_per_second"
        wait_for(lambda: cluster.metric_sum(way) > 0, "the way of blocks was chosen")

        def busy() -> float:
            return sum(sum(p.cpu_times()[:2]) for p in family)

        # The measurement itself: CPU seconds over wall seconds, all processes together. What is
        # not the cluster's own (a slow moment of the machine) is not in every window.
        window, share = 10.0, 1.0
        for _ in range(3):
            start = busy()
            psutil.cpu_percent(interval=window)
            share = (busy() - start) / window
            print(f"idle cluster: {share:.2%} of one core")
            if share < 0.02:
                break
        assert share < 0.02

"""Workers that die under load, and load beyond what can be queued."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cluster import ATTEMPTS, Cluster, held, wait_for

from baton.bench.faults.judge import SILENCE
from baton.bench.faults.load import Ask, Load, Seen

TWO_OF_EACH = ("--prefill", "2", "--decode", "2", "--dtype", "float32")


def asks(count: int, max_tokens: int) -> list[Ask]:
    return [
        Ask((5 + number, 17, 23 + number % 7) * (1 + number % 20), max_tokens)
        for number in range(count)
    ]


def outputs(seen: list[Seen], max_tokens: int) -> list[list[int]]:
    for one in seen:
        assert (one.error, one.done, len(one.ids)) == (None, True, max_tokens)
    return [one.ids for one in seen]


def of_role(cluster: Cluster, role: str) -> list[dict[str, Any]]:
    return [worker for worker in cluster.workers() if worker["role"] == role]


def busiest(cluster: Cluster, role: str) -> dict[str, Any]:
    return max(of_role(cluster, role), key=lambda worker: int(worker["outstanding"]))


def kill_one_that_reads(cluster: Cluster, work: list[Ask]) -> Load:
    """The load, with a prompt at the worker that was killed."""
    with held(worker["pid"] for worker in of_role(cluster, "prefill")):
        load = Load(cluster.url, work, "disturbed").start()
        wait_for(lambda: busiest(cluster, "prefill")["outstanding"], "a worker has a prompt")
        os.kill(busiest(cluster, "prefill")["pid"], signal.SIGKILL)
    return load


def kill_one_that_writes(cluster: Cluster, work: list[Ask]) -> Load:
    """The load, most of it in its middle when a worker with a part of it was killed."""
    for attempt in range(ATTEMPTS):
        load = Load(cluster.url, work, f"disturbed {attempt}").start()
        wait_for(lambda it=load: it.tokens > 5 * len(work), "streams in their middle")
        with held(worker["pid"] for worker in of_role(cluster, "decode")):
            if load.in_flight > len(work) / 2:
                os.kill(busiest(cluster, "decode")["pid"], signal.SIGKILL)
                return load
        load.wait()
    pytest.fail("too late each time: they had ended")


@pytest.mark.parametrize("kill", [kill_one_that_reads, kill_one_that_writes])
def test_one_of_two_workers_dies_and_no_client_notices(kill: Any, tiny_model: Path) -> None:
    """Float32 greedy: the same tokens as without the death, none repeated, none lost."""
    work = asks(40, max_tokens=150)
    with Cluster(*TWO_OF_EACH, model=tiny_model) as cluster:
        undisturbed = outputs(Load(cluster.url, work, "undisturbed").start().wait(), 150)
        disturbed = outputs(kill(cluster, work).wait(), 150)
        assert cluster.metric_sum("baton_retries_total") > 0
        differ = [i for i, ids in enumerate(undisturbed) if ids != disturbed[i]]
        assert not differ, f"{len(differ)} outputs changed: {differ}"
        wait_for(
            lambda: [w["state"] for w in cluster.workers()] == ["ready"] * 4, "the worker is back"
        )


def stop_one_that_writes(cluster: Cluster, work: list[Ask]) -> tuple[Load, dict[str, Any]]:
    """The load, and the worker that stands still with a part of it."""
    for attempt in range(ATTEMPTS):
        load = Load(cluster.url, work, f"disturbed {attempt}").start()
        wait_for(lambda it=load: it.tokens > 5 * len(work), "streams in their middle")
        victim = busiest(cluster, "decode")
        os.kill(victim["pid"], signal.SIGSTOP)
        [now] = [w for w in cluster.workers() if w["id"] == victim["id"]]
        if now["outstanding"] and now["pid"] == victim["pid"]:
            return load, victim
        os.kill(victim["pid"], signal.SIGCONT)
        load.wait()
    pytest.fail("too late each time: it had nothing any more")


def test_a_worker_that_was_stopped_for_long_comes_back_as_another_life(tiny_model: Path) -> None:
    """It finds itself late and ends; what was its own runs elsewhere, with the same tokens."""
    work = asks(40, max_tokens=150)
    with Cluster(*TWO_OF_EACH, model=tiny_model, patient=False) as cluster:
        undisturbed = outputs(Load(cluster.url, work, "undisturbed").start().wait(), 150)
        load, victim = stop_one_that_writes(cluster, work)
        stopped = time.monotonic()
        try:
            assert outputs(load.wait(), 150) == undisturbed  # others end what it had
            # As long as makes it late by its own clock, too.
            wait_for(lambda: time.monotonic() - stopped > SILENCE, "it is late")
        finally:
            os.kill(victim["pid"], signal.SIGCONT)

        def now() -> dict[str, Any]:
            return next(w for w in cluster.workers() if w["id"] == victim["id"])

        def is_another() -> bool:
            return now()["state"] == "ready" and now()["pid"] != victim["pid"]

        wait_for(is_another, "another life of the stopped worker")
        assert now()["epoch"] != victim["epoch"]
        again = outputs(Load(cluster.url, work, "again").start().wait(), 150)
        assert again == undisturbed
        cluster.assert_clean()


def test_the_only_worker_dies_after_the_first_token(tiny_model: Path) -> None:
    cluster = Cluster("--mixed", "1", "--no-restart", model=tiny_model).start()
    try:
        [worker] = cluster.workers()
        for attempt in range(ATTEMPTS):
            load = Load(cluster.url, asks(1, max_tokens=500), f"{attempt}").start()
            wait_for(lambda it=load: it.tokens, "the first token")
            with held([worker["pid"]]):
                [now] = cluster.workers()
                if now["outstanding"]:
                    os.kill(worker["pid"], signal.SIGKILL)
                    break
            load.wait()
        [seen] = load.wait()
        assert seen.status == 200
        assert 0 < len(seen.ids) < 500
        assert seen.typed
        assert seen.error in ("worker_lost", "no_worker")
        assert not seen.done
        assert seen.finish is None
    finally:
        cluster.stop()


def test_more_than_can_be_queued_is_told_when_to_come_back(tiny_model: Path) -> None:
    async def flood(cluster: Cluster) -> list[tuple[int, str | None]]:
        answers: list[tuple[int, str | None]] = []

        async def one(session: aiohttp.ClientSession, ask: Ask) -> None:
            body = {**ask.body("flood"), "stream": False}
            async with session.post(f"{cluster.url}/v1/completions", json=body) as reply:
                await reply.read()
                answers.append((reply.status, reply.headers.get("Retry-After")))

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            [worker] = cluster.workers()
            with held([worker["pid"]]):  # so that those that come first are still there
                running = asyncio.gather(*(one(session, ask) for ask in asks(60, 30)))
                await asyncio.to_thread(wait_for, lambda: answers, "one is refused")
            await running
        return answers

    with Cluster("--max-queue", "8", "--max-running", "2", "--mixed", "1",
                 model=tiny_model) as cluster:
        answers = asyncio.run(flood(cluster))
        assert {status for status, _ in answers} == {200, 429}
        assert all(int(after or 0) >= 1 for status, after in answers if status == 429)


SHORT = [Ask(ask.prompt[:3], ask.max_tokens) for ask in asks(40, max_tokens=120)]
"""All are admitted at once; what they grow to does not fit by far."""


@pytest.fixture(scope="module")
def roomy(tiny_model: Path) -> list[list[int]]:
    """What they answer where there is room."""
    with Cluster("--mixed", "1", "--dtype", "float32", model=tiny_model) as cluster:
        return outputs(Load(cluster.url, SHORT, "roomy").start().wait(), 120)


@pytest.mark.parametrize(
    ("layout", "writes"),
    [(("--mixed", "1"), "mixed"), (("--prefill", "1", "--decode", "1"), "decode")],
    ids=["mixed", "split"],
)
def test_a_pool_too_small_for_all_preempts_and_loses_nothing(
    layout: tuple[str, ...], writes: str, roomy: list[list[int]], tiny_model: Path
) -> None:
    with Cluster(*layout, "--dtype", "float32", "--kv-blocks", "60",
                 "--max-model-len", "512", model=tiny_model) as tight:
        with held(worker["pid"] for worker in of_role(tight, writes)):
            load = Load(tight.url, SHORT, "tight").start()
            wait_for(lambda: tight.metric_sum("baton_active_requests") == len(SHORT), "all came")
        got = outputs(load.wait(), 120)
        wait_for(
            lambda: sum(w["load"]["preemptions"] for w in tight.workers()) > 0,
            "a preemption: the pool was not tight")
    assert got == roomy

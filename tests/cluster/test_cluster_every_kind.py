"""Retry, local fallback and migration for requests of every kind: what a client sees is the same
as without."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cluster import ATTEMPTS, Cluster, held, wait_for
from kinds import Answer, Calls, assert_complete, assert_same, calls_of_all_kinds
from tiny_model import make_tiny_model

CALLS = calls_of_all_kinds(each=2, seed=5, output=(300, 400))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    model = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", max_position=1024)
    layout = ("--prefill", "2", "--decode", "2", "--dtype", "float32")
    with Cluster(*layout, model=model) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> list[Answer]:
    answers = Calls(cluster.url, CALLS, "undisturbed").wait()
    assert_complete(CALLS, answers)
    return answers


def pids(cluster: Cluster, role: str) -> dict[str, int]:
    return {worker["id"]: worker["pid"] for worker in cluster.workers() if worker["role"] == role}


def kill(cluster: Cluster, names: list[str]) -> None:
    before = {worker["id"]: worker["pid"] for worker in cluster.workers()}
    for name in names:
        os.kill(before[name], signal.SIGKILL)


def wait_for_all(cluster: Cluster) -> None:
    wait_for(
        lambda: sum(worker["state"] == "ready" for worker in cluster.workers()) == 4,
        "all workers are back",
    )


@contextmanager
def in_the_middle(cluster: Cluster, salt: str) -> Iterator[Calls]:
    """Requests of all kinds have begun, and hardly one has ended. Workers stand still inside, so
    that this is still so when something strikes."""
    for attempt in range(ATTEMPTS):
        running = Calls(cluster.url, CALLS, f"{salt} {attempt}")
        wait_for(lambda r=running: r.streamed >= 100 or not r.left, "streams in their middle")
        with held(worker["pid"] for worker in cluster.workers()):
            if running.left > 0.8 * len(CALLS):
                yield running
                return
        running.wait()
    pytest.fail("too late each time: they had ended")


def retries(cluster: Cluster) -> dict[str, float]:
    """By reason."""
    return {
        name: value
        for name, value in cluster.metrics().items()
        if name.startswith("baton_retries_total") and value
    }


def busy(cluster: Cluster, role: str) -> str:
    workers = [worker for worker in cluster.workers() if worker["role"] == role]
    chosen = max(workers, key=lambda worker: int(worker["outstanding"]))
    assert chosen["outstanding"] > 0
    return str(chosen["id"])


def test_a_drained_worker(cluster: Cluster, expected: list[Answer]) -> None:
    with in_the_middle(cluster, "drained") as running:
        moved, before = cluster.metric_sum("baton_migrations_total"), retries(cluster)
        victim = busy(cluster, "decode")
        cluster.post(f"/admin/workers/{victim}/drain", {})
    try:
        assert_same(CALLS, running.wait(), expected)
        assert cluster.metric_sum("baton_migrations_total") > moved
        grown = {name for name, count in retries(cluster).items() if count != before.get(name)}
        # Prompts that waited there start elsewhere; nothing that streamed is computed again.
        assert grown <= {'baton_retries_total{reason="drained"}'}
    finally:
        cluster.post(f"/admin/workers/{victim}/undrain", {})
        wait_for_all(cluster)


def test_a_killed_decode_worker(cluster: Cluster, expected: list[Answer]) -> None:
    with in_the_middle(cluster, "decode killed") as running:
        before = cluster.metric_sum("baton_retries_total")
        kill(cluster, [busy(cluster, "decode")])
    assert_same(CALLS, running.wait(), expected)
    assert cluster.metric_sum("baton_retries_total") > before
    wait_for_all(cluster)


def test_nobody_is_left_to_prefill(cluster: Cluster, expected: list[Answer]) -> None:
    """Their prompts are computed where they decode."""
    local = sum(v for k, v in cluster.metrics().items() if 'route="local"' in k)
    with held([cluster.loader().pid]):  # or others would soon be there in their place
        kill(cluster, list(pids(cluster, "prefill")))
        assert_same(CALLS, Calls(cluster.url, CALLS, "no prefill worker").wait(), expected)
    assert sum(v for k, v in cluster.metrics().items() if 'route="local"' in k) > local
    wait_for_all(cluster)

"""Retry, local fallback and migration for requests of every kind: what a client sees is the same
as without."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from cluster import Cluster, wait_for
from kinds import Answer, Calls, assert_complete, assert_same, calls_of_all_kinds
from tiny_model import make_tiny_model

CALLS = calls_of_all_kinds(each=2, seed=5, output=(600, 800))
"""Long enough for a fault to strike in their middle."""


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
        "all workers are back", 30,
    )


def in_the_middle(cluster: Cluster, salt: str) -> Calls:
    """Requests of all kinds have begun, and hardly one has ended."""
    running = Calls(cluster.url, CALLS, salt)
    wait_for(lambda: running.streamed >= 100, "streams in their middle")
    left = running.left
    if left <= 0.8 * len(CALLS):
        running.wait()  # nor is it in the way of the next test
        pytest.fail("too late: they have ended")
    return running


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
    running = in_the_middle(cluster, "drained")
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


def test_a_killed_decode_worker(cluster: Cluster, expected: list[Answer]) -> None:
    running = in_the_middle(cluster, "decode killed")
    before = cluster.metric_sum("baton_retries_total")
    kill(cluster, [busy(cluster, "decode")])
    assert_same(CALLS, running.wait(), expected)
    assert cluster.metric_sum("baton_retries_total") > before
    wait_for_all(cluster)


def test_nobody_is_left_to_prefill(cluster: Cluster, expected: list[Answer]) -> None:
    """Their prompts are computed where they decode."""
    local = sum(v for k, v in cluster.metrics().items() if 'route="local"' in k)
    wait_for_all(cluster)
    kill(cluster, list(pids(cluster, "prefill")))
    assert_same(CALLS, Calls(cluster.url, CALLS, "no prefill worker").wait(), expected)
    assert sum(v for k, v in cluster.metrics().items() if 'route="local"' in k) > local
    wait_for_all(cluster)

"""Running streams move from worker to worker, and no client notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cluster import ATTEMPTS, Cluster, lines_of, wait_for
from tiny_model import make_tiny_model

from baton.bench.faults.load import Load, Seen, random_asks

STREAMS = 16
TOKENS = 1500
"""Long enough that all streams still run when they have moved twice, unless the machine stands
still in between."""
ASKS = random_asks(STREAMS, seed=7, prompt=(20, 120), output=(TOKENS, TOKENS))


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", max_position=2048)


def view(cluster: Cluster, worker_id: str) -> dict[str, Any]:
    return next(worker for worker in cluster.workers() if worker["id"] == worker_id)


def outstanding(cluster: Cluster, worker_id: str) -> int:
    return int(view(cluster, worker_id)["outstanding"])


def migrations(cluster: Cluster, outcome: str) -> float:
    return cluster.metrics().get(f'baton_migrations_total{{outcome="{outcome}"}}', 0.0)


def decoders(cluster: Cluster) -> list[str]:
    return [worker["id"] for worker in cluster.workers() if worker["role"] != "prefill"]


def empty(cluster: Cluster, worker_id: str) -> int:
    """Drain a worker; how many requests it had."""
    drained = cluster.post(f"/admin/workers/{worker_id}/drain", {})["worker"]
    assert drained["state"] == "draining"
    wait_for(lambda: outstanding(cluster, worker_id) == 0, f"{worker_id} is empty")
    return int(drained["outstanding"])


def all_decode(load: Load, tokens: int) -> None:
    wait_for(
        lambda: min(len(seen.ids) for seen in load.seen) >= tokens, f"{tokens} tokens of each"
    )


def outputs(seen: list[Seen]) -> list[list[int]]:
    for one in seen:
        assert (one.error, one.finish, one.done) == (None, "length", True)
        assert len(one.ids) == TOKENS
    return [one.ids for one in seen]


@pytest.mark.parametrize(
    "layout",
    [("--prefill", "1", "--decode", "2"), ("--mixed", "2")],
    ids=["split", "mixed"],
)
def test_drained_back_and_forth_under_load(layout: tuple[str, ...], long_model: Path) -> None:
    """Float32 greedy: the same tokens as undisturbed, none lost, none repeated; no request fails
    or is tried again; on the way back the receiver was a sender of the same attempt before."""
    with Cluster(*layout, "--dtype", "float32", model=long_model) as cluster:
        expected = outputs(Load(cluster.url, ASKS, "undisturbed").start().wait())
        for attempt in range(ATTEMPTS):
            before = migrations(cluster, "moved")
            load = Load(cluster.url, ASKS, f"drained {attempt}").start()
            all_decode(load, 10)
            # On a machine that others use one may look so slow that all went to the other.
            first, second = sorted(decoders(cluster), key=lambda name: -outstanding(cluster, name))
            moved = [empty(cluster, first)]
            cluster.post(f"/admin/workers/{first}/undrain", {})
            moved.append(empty(cluster, second))
            if load.in_flight == STREAMS:
                break
            assert outputs(load.wait()) == expected  # too late: streams had ended
            cluster.post(f"/admin/workers/{second}/undrain", {})
            wait_for(lambda: cluster.status("/ready") == 200, "both take requests")
        assert min(moved) > 0
        code, said = lines_of(["drain", second, "--url", cluster.url])
        # Others' requests are known by its heartbeats, so a moment ago there may have been some.
        assert (code, said.splitlines()[-1]) == (0, f"{second} is empty")
        assert outputs(load.wait()) == expected
        assert migrations(cluster, "moved") - before >= sum(moved)
        assert migrations(cluster, "unfinished") == 0
        assert cluster.metric_sum("baton_retries_total") == 0
        assert [view(cluster, name)["state"] for name in (first, second)] == ["ready", "draining"]


def test_a_worker_without_neighbours_finishes_what_it_has(long_model: Path) -> None:
    with Cluster("--mixed", "1", "--dtype", "float32", model=long_model) as cluster:
        load = Load(cluster.url, ASKS, "drained").start()
        all_decode(load, 5)
        [only] = decoders(cluster)
        cluster.post(f"/admin/workers/{only}/drain", {})
        assert cluster.status("/ready") == 503
        outputs(load.wait())
        assert migrations(cluster, "moved") == 0
        wait_for(lambda: outstanding(cluster, only) == 0, "it is empty")
        cluster.post(f"/admin/workers/{only}/undrain", {})
        # All its routers go by its own word, which comes with a heartbeat.
        wait_for(lambda: cluster.status("/ready") == 200, "it takes requests again")

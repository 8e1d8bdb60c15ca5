"""All workers are replaced, one after another, and no client notices."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, lines_of, wait_for
from kinds import Answer, Calls, assert_complete, assert_same, calls_of_all_kinds
from tiny_model import make_tiny_model

CALLS = calls_of_all_kinds(each=1, seed=11, output=(300, 400))


class EndlessLoad:
    """Two clients that make all of the calls again and again, until told to end."""

    def __init__(self, url: str) -> None:
        self.rounds: list[list[Answer]] = []
        self._url = url
        self._salts = itertools.count()
        self._end = threading.Event()
        self._clients = [threading.Thread(target=self._client, daemon=True) for _ in range(2)]
        for client in self._clients:
            client.start()

    def wait(self) -> list[list[Answer]]:
        """The answers of all rounds, when those that have begun are over."""
        self._end.set()
        for client in self._clients:
            client.join()
        return self.rounds

    def _client(self) -> None:
        while not self._end.is_set():
            self.rounds.append(Calls(self._url, CALLS, f"round {next(self._salts)}").wait())


@pytest.mark.parametrize(
    "layout",
    [("--prefill", "2", "--decode", "2"), ("--mixed", "2")],
    ids=["two-and-two", "mixed"],
)
def test_rolling_replacement_under_load(layout: tuple[str, ...], tmp_path: Path) -> None:
    """Drain, stop, another one starts. Requests of all kinds come all the while, and none fails,
    gives anything else or is lost with a worker."""
    model = make_tiny_model(tmp_path / "tiny", max_position=1024)
    with Cluster(*layout, "--dtype", "float32", model=model) as cluster:
        expected = Calls(cluster.url, CALLS, "undisturbed").wait()
        assert_complete(CALLS, expected)
        first_lives = {worker["id"]: worker["pid"] for worker in cluster.workers()}
        load = EndlessLoad(cluster.url)
        left = dict(first_lives)
        while left:
            name = wait_for(lambda: busiest(cluster, left), "one is in use")
            replace(cluster, name, left.pop(name))
        rounds = load.wait()
        assert len(rounds) > 2
        for answers in rounds:
            assert_same(CALLS, answers, expected)
        assert not set(first_lives.values()) & {worker["pid"] for worker in cluster.workers()}
        assert cluster.metric_sum("baton_worker_detection_seconds_count") == 0, "one died"


def busiest(cluster: Cluster, left: Iterable[str]) -> str:
    """Of those that are left, when any worker is in use; "" otherwise. Which workers a load needs
    is the router's affair."""
    outstanding = {worker["id"]: worker["outstanding"] for worker in cluster.workers()}
    return max(left, key=lambda name: outstanding[name]) if any(outstanding.values()) else ""


def replace(cluster: Cluster, name: str, pid: int) -> None:
    """As an operator does it: the supervisor starts another in place of one that has ended."""

    def view() -> dict[str, Any]:
        return next((w for w in cluster.workers() if w["id"] == name), {})

    code, said = lines_of(["drain", name, "--url", cluster.url])
    assert (code, said.splitlines()[-1]) == (0, f"{name} is empty")
    os.kill(pid, signal.SIGTERM)
    wait_for(
        lambda: view().get("pid", pid) != pid and view()["state"] == "ready", f"another {name}"
    )

"""Starting, failing, dying: every path ends with nothing left running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import DEADLINE, Cluster, environment, lines_of, wait_for

from baton.bench.faults.proxy import free_port


def test_port_in_use_is_one_line(tiny_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, output = lines_of(["up", str(tiny_model), "--port", port])
    assert code != 0
    assert port in output
    assert "Traceback" not in output


@pytest.mark.parametrize("damage", ["no weights", "truncated", "architecture"])
def test_a_bad_model_is_one_line(damage: str, tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_model.iterdir():
        data = file.read_bytes()
        if file.suffix == ".safetensors":
            if damage == "no weights":
                continue
            if damage == "truncated":
                data = data[: len(data) // 2]
        if file.name == "config.json" and damage == "architecture":
            data = data.replace(b"LlamaForCausalLM", b"NoSuchForCausalLM")
        (broken / file.name).write_bytes(data)
    code, output = lines_of(["up", str(broken), "--port", "0"])
    assert code != 0
    assert "Traceback" not in output
    named = {"no weights": "weights", "truncated": "truncated", "architecture": "NoSuch"}
    assert named[damage] in output


def test_hub_id_offline_says_so() -> None:
    code, output = lines_of(["up", "nobody/no-such-model", "--port", "0"])
    assert code != 0
    assert "nobody/no-such-model" in output
    assert "Traceback" not in output


def test_killing_the_launcher_leaves_no_orphan(tiny_model: Path) -> None:
    cluster = Cluster(model=tiny_model).start()
    family = cluster.processes()
    assert len(family) >= 4, "launcher, router, two workers"
    cluster.launcher.kill()
    _, left = psutil.wait_procs(family, timeout=DEADLINE)
    for process in left:
        process.kill()
    assert not left


def test_sigint_during_start_leaves_nothing(tiny_model: Path) -> None:
    cluster = Cluster(model=tiny_model).launch()
    family = wait_for(
        lambda: cluster.processes() if len(cluster.processes()) >= 3 else None, "children")
    cluster.stop(signal.SIGINT)
    _, left = psutil.wait_procs(family, timeout=DEADLINE)
    assert not left


@pytest.fixture(scope="module")
def lasting(tiny_model: Path) -> Iterator[Cluster]:
    """For what it survives."""
    with Cluster(model=tiny_model) as cluster:
        yield cluster


def wait_for_another(cluster: Cluster, old: dict[str, Any]) -> dict[str, Any]:
    """In place of a worker that was killed."""

    def restarted() -> dict[str, Any] | None:
        return next(
            (w for w in cluster.workers()
             if w["id"] == old["id"] and w["pid"] != old["pid"] and w["state"] == "ready"),
            None,
        )

    new: dict[str, Any] = wait_for(restarted, f"a new {old['id']}")
    return new


def answers(cluster: Cluster) -> None:
    reply = cluster.post("/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 3})
    assert reply["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_dead_worker_comes_back(role: str, lasting: Cluster) -> None:
    old = next(w for w in lasting.workers() if w["role"] == role)
    os.kill(old["pid"], signal.SIGKILL)
    new = wait_for_another(lasting, old)
    assert new["role"] == role
    assert new["epoch"] != old["epoch"]
    lasting.wait_ready()
    answers(lasting)


def test_workers_outlive_their_loader(lasting: Cluster) -> None:
    """What they were forked from dies: they go on, and it is back for the next fork."""
    before = {worker["id"]: worker["pid"] for worker in lasting.workers()}
    loader = lasting.loader()
    loader.kill()
    wait_for(
        lambda: any("loader" in line and "DIED" in line for line in lasting.output),
        "the launcher's word of it",
    )
    answers(lasting)
    assert {worker["id"]: worker["pid"] for worker in lasting.workers()} == before
    [old] = [worker for worker in lasting.workers() if worker["id"] == "decode-0"]
    os.kill(old["pid"], signal.SIGKILL)
    wait_for_another(lasting, old)


def test_a_length_beyond_the_model_is_one_cause(tiny_model: Path) -> None:
    code, output = lines_of(["up", str(tiny_model), "--port", "0", "--max-model-len", "9999999"])
    assert code == 1
    assert "baton: loader: --max-model-len 9999999" in output
    assert "Traceback" not in output


def test_no_worker_is_a_503_soon(tiny_model: Path) -> None:
    cluster = Cluster("--no-restart", model=tiny_model).start()
    try:
        for worker in cluster.workers():
            os.kill(worker["pid"], signal.SIGKILL)
        wait_for(lambda: cluster.status("/ready") == 503, "/ready says no")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            # Within a second; for want of time, not of workers, only after a minute.
            cluster.post("/v1/completions", {"prompt": [5, 6], "max_tokens": 2}, timeout=30)
        assert refusal.value.code == 503
    finally:
        family = cluster.processes()
        cluster.stop()
        assert not psutil.wait_procs(family, timeout=DEADLINE)[1]


def test_two_clusters_side_by_side(tiny_model: Path) -> None:
    with Cluster(model=tiny_model) as one, Cluster(model=tiny_model) as other:
        body = {"prompt": [9, 8, 7], "max_tokens": 5, "temperature": 0}
        assert one.url != other.url
        assert (one.post("/v1/completions", body)["choices"]
                == other.post("/v1/completions", body)["choices"])


def test_workers_before_their_router(tiny_model: Path) -> None:
    """Separate parts over TCP, workers first; then the router goes away and another comes."""
    control = f"127.0.0.1:{free_port()}"
    started: list[subprocess.Popen[bytes]] = []

    def baton(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "baton.deploy.cli", *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env=environment(patient=True))
        started.append(process)
        return process

    def router() -> Cluster:
        parts = Cluster()
        parts.command = [
            sys.executable, "-P", "-m", "baton.deploy.cli", "router", str(tiny_model),
            "--port", "0", "--control", control]
        parts.start()
        started.append(parts.launcher)  # type: ignore[arg-type]
        return parts

    try:
        for role in ("prefill", "decode"):
            baton("worker", str(tiny_model), "--role", role, "--join", control)
        for _ in range(2):
            cluster = router()
            wait_for(lambda c=cluster: len(c.workers()) == 2, "both workers joined")
            reply = cluster.post("/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 3})
            assert reply["usage"]["completion_tokens"] == 3
            cluster.assert_clean()
            cluster.stop()
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
        for process in started:
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

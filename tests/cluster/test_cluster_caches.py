"""Routers know what workers have in their caches because these say so."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cluster import DEADLINE, Cluster, environment, wait_for
from tiny_model import make_tiny_model

from baton.bench.faults.proxy import free_port

BLOCK = 16


def ask(cluster: Cluster, prompt: list[int], tokens: int) -> tuple[list[int], int]:
    """Output, and how much of the prompt was cached where it was computed."""
    answer = cluster.post("/v1/completions", {
        "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True,
    })
    [choice] = answer["choices"]
    return choice["token_ids"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_router_that_comes_later_knows_what_was_cached_before(tmp_path: Path) -> None:
    """A new router, which has computed nothing, sends a conversation's next turn to the worker that
    has its past, or names it as the lender."""
    model = make_tiny_model(tmp_path / "tiny", max_position=2048)
    control = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-P", "-m", "baton.deploy.cli"]
    workers: list[subprocess.Popen[bytes]] = []
    routers: list[Cluster] = []

    def router() -> Cluster:
        cluster = Cluster()
        cluster.command = [*command, "router", str(model), "--port", "0", "--control", control]
        cluster.start()
        routers.append(cluster)
        wait_for(lambda: len(cluster.workers()) == 2, "both workers joined")
        return cluster

    rng = random.Random(3)
    past = [[rng.randrange(5, 512) for _ in range(40)] for _ in range(6)]
    try:
        for role in ("prefill", "decode"):
            workers.append(subprocess.Popen(
                [*command, "worker", str(model), "--role", role, "--join", control,
                 "--dtype", "float32", "--block-size", str(BLOCK)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                env=environment(patient=True),
            ))
        first = router()
        with ThreadPoolExecutor(len(past)) as pool:
            answers = pool.map(lambda prompt: ask(first, prompt, 200)[0], past)
            past = [[*prompt, *answer] for prompt, answer in zip(past, answers, strict=True)]
        first.assert_clean()
        first.stop()
        second = router()
        wait_for(lambda: all(w["load"] for w in second.workers()), "both have said something")
        # The first turns may come before the workers have told what they have.
        cached = [ask(second, prompt, 2)[1] for prompt in past]
        second.assert_clean()
        second.stop()
        assert (240 - 1) // BLOCK * BLOCK in cached, cached
    finally:
        for each in routers:
            if each.launcher.poll() is None:
                each.kill()
        for process in workers:
            process.terminate()
        for process in workers:
            process.wait(DEADLINE)

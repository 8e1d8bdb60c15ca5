"""A conversation goes on: the worker that reads the next turn fetches the past from the worker that
wrote it; and when it cannot, nobody notices."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from cluster import ATTEMPTS, Cluster, wait_for
from tiny_model import make_tiny_model

from baton.bench.faults.load import Ask, Load

BLOCK = 16


def text(count: int, seed: int) -> list[int]:
    """Random tokens."""
    rng = random.Random(seed)
    return [rng.randrange(5, 512) for _ in range(count)]


FIRST = text(40, seed=3)
ANSWER = 400
QUESTION = text(30, seed=4)
NEXT = 24
PAST_BLOCKS = (len(FIRST) + ANSWER - 1) // BLOCK
"""Full ones that the first turn leaves: the KV of its last token was never computed."""


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", max_position=2048)


def ask(cluster: Cluster, prompt: list[int], tokens: int, salt: str) -> tuple[list[int], int]:
    """Output, and how much of the prompt was cached where it was computed."""
    body = {**Ask(tuple(prompt), tokens).body(salt), "stream": False}
    answer = cluster.post("/v1/completions", body)
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "length"
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return choice["token_ids"], cached


def second_turn(cluster: Cluster, salt: str) -> list[int]:
    """The prompt of it, after the first."""
    output, _ = ask(cluster, FIRST, ANSWER, salt)
    return [*FIRST, *output, *QUESTION]


def worker(cluster: Cluster, role: str, number: int = 0) -> dict[str, Any]:
    found = next(w for w in cluster.workers() if w["id"] == f"{role}-{number}")
    return dict(found)


def loans(cluster: Cluster, outcome: str | None = None) -> float:
    return sum(
        value for name, value in cluster.metrics().items()
        if name.startswith("baton_kv_loans_total") and (not outcome or f'"{outcome}"' in name)
    )


def asked(cluster: Cluster) -> float:
    return cluster.metric_sum("baton_lenders_named_total")


def start(model: Path, *options: str) -> Cluster:
    return Cluster(*options, "--dtype", "float32", "--block-size", str(BLOCK), model=model)


def adopted(cluster: Cluster, before: float) -> bool:
    """Whether the one loan since was. A lender that needs more than a second to answer is done
    without, and on a busy machine each may need that once."""
    wait_for(lambda: loans(cluster) == before + 1, "the loan is counted")
    return loans(cluster, "adopted") == 1


def test_the_past_is_fetched_from_the_decode_worker(long_model: Path) -> None:
    with start(long_model, "--prefill", "1", "--decode", "1") as cluster:
        for attempt in range(ATTEMPTS):
            salt = f"a{attempt}"
            prompt = second_turn(cluster, salt)
            assert asked(cluster) == attempt
            cold, nothing = ask(cluster, prompt, NEXT, f"cold {salt}")
            assert nothing == 0
            lent = cluster.metric_sum("baton_kv_lent_blocks_total")
            output, cached = ask(cluster, prompt, NEXT, salt)
            assert output == cold
            assert asked(cluster) == attempt + 1
            if adopted(cluster, attempt):
                break
        assert cached == PAST_BLOCKS * BLOCK
        own = len(FIRST) // BLOCK
        wait_for(
            lambda: cluster.metric_sum("baton_kv_lent_blocks_total") == lent + PAST_BLOCKS - own,
            "what the borrower lacked is counted",
        )
        # Now the prefill worker has it itself.
        again, cached = ask(cluster, prompt, NEXT, salt)
        assert (again, cached) == (cold, len(prompt) // BLOCK * BLOCK)
        assert asked(cluster) == attempt + 1


def test_a_mixed_worker_borrows_for_a_local_prefill(long_model: Path) -> None:
    with start(long_model, "--mixed", "2") as cluster:
        for attempt in range(ATTEMPTS):
            before = {w["id"]: w["blocks"]["cached"] for w in cluster.workers()}
            prompt = second_turn(cluster, f"a{attempt}")
            [holder] = wait_for(
                lambda had=before: [
                    w["id"] for w in cluster.workers()
                    if w["blocks"]["cached"] >= had[w["id"]] + PAST_BLOCKS
                ],
                "a worker has it cached",
            )
            cluster.post(f"/admin/workers/{holder}/drain", {})
            cold, _ = ask(cluster, prompt, NEXT, f"cold {attempt}")
            output, cached = ask(cluster, prompt, NEXT, f"a{attempt}")
            assert output == cold
            if adopted(cluster, attempt):
                break
            cluster.post(f"/admin/workers/{holder}/undrain", {})
            wait_for(lambda: all(w["state"] == "ready" for w in cluster.workers()), "both again")
        assert cached == PAST_BLOCKS * BLOCK


def test_a_lender_that_has_forgotten_costs_nothing(long_model: Path) -> None:
    with start(long_model, "--prefill", "1", "--decode", "1", "--kv-blocks", "64",
               "--max-model-len", "1000") as cluster:
        prompt = second_turn(cluster, "a")
        cold, _ = ask(cluster, prompt, NEXT, "cold")
        # Both pools are full of something else afterwards.
        ask(cluster, text(900, seed=5), 80, "other")
        output, cached = ask(cluster, prompt, NEXT, "a")
        assert (output, cached) == (cold, 0)
        # The worker told that it forgot, as a rule before it could be asked.
        named = asked(cluster)
        assert named <= 1
        wait_for(lambda: loans(cluster) == named, "the loan is counted")
        assert loans(cluster, "adopted") == 0


@pytest.mark.parametrize("fate", ["stopped", "killed"])
def test_a_lender_that_does_not_answer_is_done_without(long_model: Path, fate: str) -> None:
    """It stands still when the loan is asked for; killed, it is so in the middle of it."""
    with start(long_model, "--prefill", "1", "--decode", "2") as cluster:
        prompt = second_turn(cluster, "a")
        cold, _ = ask(cluster, prompt, NEXT, "cold")
        lender = max(
            (worker(cluster, "decode", n) for n in range(2)), key=lambda w: w["blocks"]["cached"]
        )
        cluster.post(f"/admin/workers/{lender['id']}/drain", {})  # another one decodes
        os.kill(lender["pid"], signal.SIGSTOP)
        try:
            load = Load(cluster.url, [Ask(tuple(prompt), NEXT)], "a").start()
            wait_for(lambda: asked(cluster) == 1, "the lender was named")
            if fate == "killed":
                os.kill(lender["pid"], signal.SIGKILL)
            [seen] = load.wait()
        finally:
            if fate == "stopped":
                os.kill(lender["pid"], signal.SIGCONT)
        assert seen.complete, seen.error
        assert seen.ids == cold
        assert cluster.metric_sum("baton_retries_total") == 0
        wait_for(lambda: loans(cluster) == 1, "the loan is counted")
        assert loans(cluster, "adopted") == 0
        wait_for(
            lambda: all(w["state"] != "lost" for w in cluster.workers()), "all workers are back"
        )

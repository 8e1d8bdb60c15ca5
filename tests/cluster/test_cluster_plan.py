"""`baton plan --watch` on a real cluster: what it reads, what it advises, and that it does so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import Cluster, lines_of, wait_for
from paced import made_up_curve, write_profile

from baton.engine.scripted import script_seed

CURVE = made_up_curve(token=2e-4)
"""A prompt of 1,000 tokens takes 0.2 s."""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return write_profile(tmp_path / "profile.json", CURVE)


def test_prompts_that_press_get_workers_when_it_is_told_to(profile: Path) -> None:
    with Cluster("--paced", profile, "--prefill", 1, "--decode", 3, "--sizing", "off") as cluster:
        wait_for(lambda: all(w["curves"] for w in cluster.workers()), "the profile's curves")

        def ask(number: int) -> str:
            reply = cluster.post("/v1/completions", {
                "prompt": [5 + number] * 1000, "max_tokens": 50, "seed": script_seed(6, number),
            })
            return str(reply["choices"][0]["finish_reason"])

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(32))) == {"stop"}
        watch = ["plan", "--watch", cluster.url, "--once", "--ttft", "700ms", "--itl", "100ms"]

        def roles() -> list[str]:
            return sorted(worker["role"] for worker in cluster.workers())

        code, said = lines_of(watch)
        assert code == 0, said
        assert "1 prefill + 3 decode" in said
        assert "it would change" in said
        assert "(--apply does it)" in " ".join(said.split())
        assert "the router's own predictions of TTFT" in said
        assert roles() == ["decode", "decode", "decode", "prefill"], "it was only asked"

        code, said = lines_of([*watch, "--apply"])
        assert code == 0, said
        assert "decode -> prefill" in said or "decode -> mixed" in said
        assert roles() != ["decode", "decode", "decode", "prefill"]


def test_no_router_is_one_line() -> None:
    code, said = lines_of(["plan", "--watch", "http://127.0.0.1:9", "--once"])
    assert code == 1
    assert said.strip().startswith("baton: no router at http://127.0.0.1:9")
    assert said.count("\n") == 1

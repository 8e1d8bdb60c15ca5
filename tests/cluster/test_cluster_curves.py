"""A running cluster knows its speed: from a profile at first, then from its requests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_for

from baton.protocol.profile import decode_profile


def test_workers_start_from_a_profile_and_learn_from_requests(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    threads = str(len(os.sched_getaffinity(0)))
    subprocess.run(
        [sys.executable, "-P", "-m", "baton.deploy.cli", "profile", str(tiny_model),
         "--seconds", "1s", "--threads", threads, "--max-context", "256"],
        check=True, capture_output=True, timeout=110,
    )
    [kept] = (tmp_path / "baton" / "profiles").iterdir()
    profile = decode_profile(kept.read_bytes())
    with Cluster("--mixed", "1", model=tiny_model) as cluster:
        first = wait_for(lambda: cluster.workers()[0]["curves"], "the profile's curve")
        assert first["step"]["steps"] == 0, "told before any request"
        assert first["step"]["base"] == pytest.approx(profile.curve.base, rel=1e-6)

        for number in range(5):
            cluster.post("/v1/completions", {
                "prompt": [5 + number] * 40, "max_tokens": 30, "ignore_eos": True,
            })
        seen = wait_for(
            lambda: cluster.workers()[0]["curves"]["step"]["steps"], "news of the steps"
        )
        wait_for(
            lambda: seen <= cluster.workers()[0]["load"]["steps"], "no more steps than there were"
        )
    assert decode_profile(kept.read_bytes()) == profile

"""Workers without a model: everything is real but the time that steps take and the tokens."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import Cluster, lines_of, wait_for
from paced import made_up_curve, write_profile

from baton.engine.scripted import script_seed

CURVE = made_up_curve(token=5e-5)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return write_profile(tmp_path / "profile.json", CURVE)


def test_eight_workers_serve_requests_of_the_lengths_that_their_seeds_say(profile: Path) -> None:
    with Cluster("--paced", profile, "--prefill", 4, "--decode", 4) as cluster:
        first = wait_for(lambda: cluster.workers()[0]["curves"], "the profile's curve")
        assert first["step"]["base"] == pytest.approx(CURVE.base, rel=0.2)
        lengths = [5 + 3 * number for number in range(24)]

        def ask(number: int) -> tuple[str, str, int]:
            reply = cluster.post("/v1/completions", {
                "prompt": [5 + number] * (40 + 20 * number),
                "max_tokens": 500,
                "seed": script_seed(lengths[number], number),
            })
            choice = reply["choices"][0]
            return choice["text"], choice["finish_reason"], reply["usage"]["completion_tokens"]

        with ThreadPoolExecutor(24) as pool:
            together = list(pool.map(ask, range(24)))
        assert [(reason, tokens) for _, reason, tokens in together] == [
            ("stop", length) for length in lengths
        ]
        assert all(text for text, _, _ in together)
        assert [ask(number) for number in (0, 23)] == [together[0], together[23]]
        handed = cluster.metric_sum("baton_kv_transfer_bytes_total")
        assert handed > 0, "prompts were handed from worker to worker"


def test_a_file_that_is_no_profile_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    code, output = lines_of(
        ["worker", "--role", "mixed", "--join", "127.0.0.1:1", "--paced", str(path)]
    )
    assert code == 1
    assert "not a profile" in output or "format" in output
    assert "Traceback" not in output

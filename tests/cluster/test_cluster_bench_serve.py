"""`baton bench serve` on a real cluster: what both sides say of the same requests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cluster import Cluster

from baton.bench.results import read
from baton.bench.serve.command import main


def test_client_and_cluster_count_the_same(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.jsonl"
    load = ["--prompt", "120", "--output", "24", "--vocabulary", "500", "--warmup", "0s",
            "--quiet", "--json", str(file)]
    with Cluster("--prefill", 1, "--decode", 1, model=tiny_model) as cluster:
        assert main([
            cluster.url, *load, "--rate", "20", "--arrivals", "gamma:2", "--requests", "40",
            "--shared", "0.5", "--groups", "2", "--workers", "2", "--ttft", "60s",
        ]) == 0
        assert main([
            cluster.url, *load, "--concurrency", "4", "--requests", "20", "--turns", "2",
            "--cancel", "60%",
        ]) == 0
        monkeypatch.setattr(sys, "argv", ["baton", "--api-key", "sk-nobody-asks"])
        assert main([
            cluster.url, *load, "--concurrency", "2", "--requests", "6", "--text",
            "--api-key", "sk-nobody-asks",
        ]) == 0
    assert "sk-nobody-asks" not in file.read_text()
    assert "--api-key KEY" in file.read_text()
    open_loop, closed, text = (result.metrics for result in read(file))

    assert open_loop["requests"] == 40
    assert open_loop["ends"] == {"length": 40}
    assert open_loop["attainment"] == 1.0
    assert open_loop["output_tokens"] == 40 * 24
    assert open_loop["prompt_tokens"] == 40 * 120
    assert open_loop["counted_by"] == ["token ids"]
    assert open_loop["hit_rate"] > 0.2, "half of each prompt is one of two heads"
    assert sum(open_loop["explained"]["route"].values()) == 40
    server = open_loop["server"]
    assert server["counters"]["baton_tokens{kind=output}"] == 40 * 24
    assert server["times"]["baton_ttft_seconds"]["count"] == 40
    for figure in ("ttft_ms", "e2e_ms"):
        both = server["beside"][figure]
        assert 0 < both["server"] <= both["client"]
    assert open_loop["client"]["loop_lag_ms"]["p50"] < open_loop["ttft_ms"]["max"]

    assert closed["requests"] == 20
    assert 0 < closed["cancelled"] < 20
    assert closed["ends"]["length"] == 20 - closed["cancelled"]
    assert closed["attainment"] == 1.0
    assert closed["hit_rate"] > 0, "a turn finds what was said before in a cache"

    assert text["ends"].keys() <= {"length", "stop"}
    assert text["requests"] == 6
    assert 0.5 * 120 < text["prompt_tokens"] / 6 < 2 * 120

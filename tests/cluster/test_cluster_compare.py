"""`baton bench compare` from its options to its verdict, on real clusters."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import make_tiny_model

from baton.bench.compare.command import main
from baton.bench.results import read


@pytest.mark.timeout(300)
def test_two_layouts_of_equal_workers_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_model(tmp_path / "model", max_position=512)
    file = tmp_path / "compare.jsonl"
    code = main([
        str(model), "--dtype", "float32", "--load", "48/12", "--rates", "5", "--seconds", "3",
        "--warm-up", "1s", "--repeat", "2", "--ttft", "30s", "--itl", "10s", "--no-tuning",
        "--layout", "colocated 128", "--layout", "split 1+1",
        "--want", "split 1+1: goodput_per_s >= 0.9 * colocated", "--json", str(file),
    ])
    said = capsys.readouterr().out
    assert code == 0, said
    assert "split 1+1" in said

    (result,) = read(file)
    assert len(result.series["points"]) == 4
    points = {point["layout"]: point for point in result.series["points"]}  # the last of each
    assert set(points) == {"colocated 128", "split 1+1"}
    for point in points.values():
        assert point["figures"]["attainment"] == 1.0
        assert point["figures"]["requests"] == points["split 1+1"]["figures"]["requests"] > 5
        assert point["phases"]["ttft_ms"]["prefill"] > 0
        assert point["phases"]["step_of_decodes_ms"] > 0
    assert points["colocated 128"]["phases"]["handed_over"] == 0.0
    assert points["split 1+1"]["phases"]["handed_over"] == 1.0
    assert points["split 1+1"]["phases"]["handoff_exposed_ms"] > 0

    answers = result.metrics["answers"]["split 1+1"]
    assert answers["compared"] > 5
    assert answers["changed"] == 0
    assert [row.holds for row in result.rows] == [True, True]
    assert any("At 5 requests/s split 1+1" in sentence for sentence in result.metrics["verdict"])

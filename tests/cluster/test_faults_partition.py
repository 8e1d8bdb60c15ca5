"""Two workers that lose sight of each other in the midst of transfers, over a real network."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import check, some_asks

from baton.bench.faults import partition
from baton.bench.faults.ground import Ground
from baton.bench.faults.parts import Plan
from baton.bench.tiny_model import make_tiny_model


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_dead_link_between_workers_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH")  # silence is what tells of it
    if reason := partition.why_not():
        pytest.skip(reason)
    plan = Plan(model=str(make_tiny_model(tmp_path / "tiny", max_position=512)))
    with partition.PartedParts(plan) as parts:
        ground = Ground(parts, some_asks(90), concurrency=60, seed=1)
        verdict = check(partition.partition(ground, 10.0))
        assert verdict.failed == 0
        assert verdict.notes["handed_over"] > 0
        lost = parts.total("baton_kv_transfer_failures_total", 'reason="peer_lost"')
        assert lost > 0, "no transfer was under way"
        assert parts.wait_clean() == {}

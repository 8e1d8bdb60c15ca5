"""`baton bench simulator`: what it finds on a small trace of its own."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from simulated import arrivals, machine, poisson

from baton.bench.results import read
from baton.bench.simulation import infinite_hits, main, node, short_requests
from baton.bench.simulator.cluster import Cluster, Run
from baton.bench.simulator.trial import disagreement, identical, where
from baton.bench.workloads.traces import Traced
from baton.protocol.curves import StepShape
from baton.protocol.records import Targets


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Forty requests in ten seconds, every second one of a conversation with the one before."""
    rng, path, lines, history = Random(1), tmp_path / "small.jsonl", [], []
    for number in range(40):
        blocks = [*history, *range(10 * number, 10 * number + rng.randrange(1, 4))]
        lines.append(json.dumps({
            "timestamp": 250 * number, "input_length": 512 * len(blocks) - 100,
            "output_length": rng.randrange(1, 80), "hash_ids": blocks,
        }))
        history = blocks if number % 2 == 0 else []
    path.write_text("\n".join(lines) + "\n")
    return path


def test_all_its_parts(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    into = tmp_path / "results.jsonl"
    code = main([
        str(trace), "--workers", "4", "--part", "5", "--short", "60", "--json", str(into)
    ])
    assert code == 1  # sixty short requests do not show a rate
    (result,) = read(into)
    assert result.bench == "simulator"
    assert result.settings["file"] == "small.jsonl"
    metrics = result.metrics
    assert metrics["hits"]["blocks"] > 80
    assert 0 < metrics["hits"]["hits"] < metrics["hits"]["blocks"] / 2
    steps, ahead = metrics["step_by_step"], metrics["fast_forward"]
    assert steps["requests"] == ahead["requests"] == 40
    assert steps["steps"] == ahead["steps"] > ahead["steps_ahead"] > steps["steps_ahead"] == 0
    assert ahead["identical"]
    assert set(ahead["differs"].values()) == {0.0}
    assert metrics["short"]["requests"] == 60
    for shares in metrics["where"].values():
        assert sum(shares.values()) == pytest.approx(1.0, abs=0.02)
        assert shares["router"] > 0.05 < shares["engine"]
    held = {row.what: row.holds for row in result.rows}
    assert [holds for what, holds in held.items() if "twice with one seed" in what] == [True]
    assert "wanted and seen" in capsys.readouterr().out


def test_hits_of_a_cache_that_forgets_nothing() -> None:
    def traced(*names: str) -> Traced:
        return Traced(0.0, 512 * len(names), 1, tuple((name, 512) for name in names))

    # What lies behind a part that is new is computed, also if it was there once.
    trace = [traced("a", "b"), traced("a", "x", "b"), traced("a", "b", "c"), traced()]
    assert infinite_hits(trace) == (3, 8)


def simulation(seed: int = 1, length: int = 60) -> Run:
    cluster = Cluster([("mixed", machine(spread=0.1))], seed=seed)
    return cluster.run(arrivals(poisson(4, 5, seed=1), length=length))


def test_what_differs_is_said_to() -> None:
    one, again, other = simulation(), simulation(), simulation(seed=2)
    assert identical(one, again)
    assert not identical(one, other)
    assert set(disagreement(one, again).values()) == {0.0}
    apart = disagreement(one, other)
    assert 0 < max(apart.values()) < 0.5
    assert apart["attainment"] == 0.0
    assert disagreement(one, simulation(length=1))["itl_p50_ms"] == 1.0  # there is none


def test_the_node_holds_the_longest_prompts() -> None:
    made_of = node(512)
    assert made_of.num_blocks * 512 > 1_000_000
    # Twelve thousand tokens in chunks, and a step of decoding: as two papers measured such nodes.
    assert 0.8 < made_of.curve.prefill_seconds(12_000, 0, 512) < 3.0
    assert 0.010 < made_of.curve.seconds(StepShape.decodes(8, 8 * 8000)) < 0.040
    assert node(16).curve.context == made_of.curve.context


def test_short_requests_are_poisson_with_prompts_of_their_own() -> None:
    found = short_requests(2000, 50.0, Targets(), seed=3)
    assert found[-1].at == pytest.approx(40.0, rel=0.1)
    assert len({arrival.prompt() for arrival in found[:100]}) == 100
    assert found[0].prompt() == found[0].prompt()


def test_where_time_goes_names_packages() -> None:
    load = list(arrivals(poisson(4, 5, seed=1), length=60))
    shares = where([("mixed", machine())], load, Targets(), seed=1, fast_forward=False)
    assert {"router", "engine", "bench/simulator", "protocol"} <= set(shares)

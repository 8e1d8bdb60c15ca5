"""Faults that need a cluster of their own: the only worker of a role, chaos on every link, pools
that are too small, corrupted blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import IN_FLIGHT, SCALE, case_named, check, ground_of, some_asks

from baton.bench.faults import deaths, links, memory


def test_the_only_decode_worker_dies_and_serves_again(tmp_path: Path) -> None:
    with ground_of(case_named("one of each"), tmp_path, some_asks()) as ground:
        verdict = check(deaths.kill_the_only(ground, "decode"))
        assert verdict.failed == verdict.typed


def test_bad_links_cost_no_request(tmp_path: Path) -> None:
    name = "drop, delay, duplicate and reorder"
    with ground_of(case_named(f"chaos: {name}"), tmp_path, some_asks(), pairs=1) as ground:
        verdict = check(links.bad_links(ground, name))
        assert min(verdict.notes["frames"].values()) > 0


@pytest.mark.parametrize(
    ("case", "count"),
    [("no room: receiver", 40), ("no room: sender", 40), ("no room: one request each", 16)],
)
def test_pools_that_are_too_small_make_requests_wait(
    case: str, count: int, tmp_path: Path
) -> None:
    asks = some_asks(count, output=(30, 60))
    with ground_of(case_named(case), tmp_path, asks, count, pairs=1) as ground:
        assert check(memory.no_room(ground, case)).failed == 0


def test_a_corrupted_byte_is_detected_and_recomputed(tmp_path: Path) -> None:
    asks = some_asks(output=(20, 40))
    with ground_of(case_named("corruption"), tmp_path, asks, pairs=1) as ground:
        verdict = check(memory.corruption(ground, 20))
        assert verdict.notes["detected"] > 0


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["drop", "delay", "duplicate", "reorder"])
def test_each_kind_of_bad_link(kind: str, tmp_path: Path) -> None:
    with ground_of(case_named(f"chaos: {kind}"), tmp_path, some_asks(200), 200) as ground:
        assert ground.concurrency > IN_FLIGHT
        verdict = check(links.bad_links(ground, kind, rounds=5 * SCALE.rounds))
        assert verdict.notes["frames"][kind] > 0

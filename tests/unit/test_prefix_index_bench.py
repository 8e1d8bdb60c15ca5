"""The decision benchmark: its structures agree, and it runs."""

from __future__ import annotations

from typing import Any

import pytest

from baton.bench.routing import decision
from baton.bench.routing.caches import KINDS, PROMPT_BLOCKS, SYSTEM_BLOCKS, Caches
from baton.bench.routing.structures import STRUCTURES


@pytest.mark.parametrize("kind", KINDS)
def test_all_structures_find_the_same(kind: str) -> None:
    found = []
    for structure in (kind() for kind in STRUCTURES.values()):
        caches = Caches(3000)
        for worker in range(5):
            decision.fill(structure, caches, worker)
        found.append([structure.match(caches.prompt(kind)) for _ in range(20)])
    assert all(each == found[0] for each in found[1:])
    longest = {max(match.values(), default=0) for match in found[0]}
    assert longest == {
        "whole": {PROMPT_BLOCKS}, "next_turn": {200}, "new": {SYSTEM_BLOCKS}, "spread": {20},
        "unknown": {0},
    }[kind]


def test_the_measurement_runs() -> None:
    result: dict[str, Any] = decision.run(rounds=10, blocks=1500, counts=(1, 4))
    assert [row["workers"] for row in result["decision"]] == [1, 4]
    for row in result["decision"]:
        assert set(row["match_us"]) == set(KINDS)
        assert row["candidates_us"]["median"] > 0 < row["decide_us"]["median"]
    table = decision.render(result)
    assert all(kind in table for kind in KINDS)

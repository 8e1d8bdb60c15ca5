"""The decision benchmark: its structures agree, and it runs."""

from __future__ import annotations

from typing import Any

import pytest

from baton.bench.routing import decision
from baton.bench.routing.busy_router import BusyRouter, FullCaches
from baton.bench.routing.caches import KINDS, PROMPT_BLOCKS, SYSTEM_BLOCKS, Caches
from baton.bench.routing.structures import STRUCTURES
from baton.router.policy import Decision


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
    result = decision.run(rounds=10, blocks=1500, counts=(1, 4))
    rows: list[dict[str, Any]] = result.series["decision"]
    assert [row["workers"] for row in rows] == [1, 4]
    for row in rows:
        assert set(row["match_us"]) == set(KINDS)
        assert all(row[part]["median"] > 0 for part in decision.PARTS)


def test_what_is_measured_is_a_decision_for_a_conversation_that_goes_on() -> None:
    caches = FullCaches(1500)
    for _ in range(8):
        caches.add_worker()
    router = BusyRouter(caches)
    for _ in range(5):
        router.ask(caches.contents.prompt("next_turn"))
        facts = router.facts()
        assert len(facts.held) == 8
        assert max(facts.held.values()) == 200
        assert len(facts.lenders) == 2
        decision = router.decision(facts)
        assert isinstance(decision, Decision)
        assert decision.prediction is not None
        assert decision.prediction.measured


def test_a_table_names_all_that_was_measured() -> None:
    result = decision.run(rounds=2, blocks=1500, counts=(1,))
    table = decision.render(result)
    assert all(kind in table for kind in KINDS)

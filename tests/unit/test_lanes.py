"""Lanes: their defaults, how they are configured and how a request gets into one."""

from __future__ import annotations

import msgspec
import pytest
from make_request import make_request

from baton.protocol.errors import BatonError, ConfigError
from baton.protocol.records import Deadlines, Targets
from baton.router.lanes import DEFAULT_LANES, Lane, Lanes, configure


def test_the_defaults() -> None:
    interactive, batch = DEFAULT_LANES
    assert configure() == DEFAULT_LANES
    assert interactive.targets == Targets(ttft=2.0, itl=0.1, firm=False)
    assert (interactive.patience, batch.patience) == (60.0, 600.0)
    assert interactive.weight == 10 * batch.weight


def test_the_targets_of_interactive_move_its_patience() -> None:
    interactive, batch = configure(0.3, 0.04)
    assert (interactive.ttft, interactive.itl, interactive.patience) == (0.3, 0.04, 3.0)
    assert configure(0.02)[0].patience == 1.0
    assert configure(itl=0.04)[0].patience == 60.0
    assert batch == DEFAULT_LANES[1]


def test_lanes_are_changed_and_added() -> None:
    lanes = {lane.name: lane for lane in configure(0.3, 0.04, [
        "interactive:patience=2s", "batch:ttft=30s,weight=2", "agents:itl=50ms",
    ])}
    assert (lanes["interactive"].ttft, lanes["interactive"].patience) == (0.3, 2.0)
    assert (lanes["batch"].ttft, lanes["batch"].patience, lanes["batch"].weight) == (30, 300, 2)
    assert lanes["agents"] == Lane("agents", ttft=0.3, itl=0.05, patience=2.0, weight=2)


@pytest.mark.parametrize(("spec", "named"), [
    ("batch", "NAME:ttft="),
    ("Batch:ttft=1s", "NAME:ttft="),
    ("batch:", "none of ttft="),
    ("batch:ttft=1", "--lane batch: ttft: '1' is not a duration"),
    ("batch:weight=0", "lane batch: weight must be above 0"),
    ("batch:weight=nan", "weight must be above 0"),
    ("batch:weight=many", "--lane batch: weight"),
    ("batch:patience=1s", "must not be below ttft"),
    ("batch:speed=1s", "'speed=1s' is none of ttft="),
])
def test_wrong_lanes_are_named(spec: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        configure(specs=[spec])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "tier", "lane", "priority"), [
    (None, None, "interactive", 0),
    (None, "auto", "interactive", 0),
    (None, "default", "interactive", 0),
    (None, "flex", "batch", 0),
    (None, "priority", "interactive", 1),
    ("batch", None, "batch", 0),
    ("batch", "priority", "batch", 1),
    ("interactive", "flex", "interactive", 0),
])
def test_how_a_request_chooses(
    name: str | None, tier: str | None, lane: str, priority: int
) -> None:
    chosen, seen = Lanes().choose(name, tier)
    assert (chosen.name, seen) == (lane, priority)


def test_an_unknown_lane_is_told_which_there_are() -> None:
    with pytest.raises(BatonError, match="the lanes are interactive, batch") as caught:
        Lanes().choose("express", None)
    assert (caught.value.status, caught.value.param) == (400, "x-baton-lane")
    with pytest.raises(ConfigError, match="interactive"):
        Lanes([DEFAULT_LANES[1]])


def test_a_request_gets_its_lanes_targets_and_no_deadline_before_its_patience() -> None:
    interactive, batch = DEFAULT_LANES
    plain = make_request("r", [1, 2])
    assert interactive.complete(plain).targets == Targets(ttft=2.0, itl=0.1, firm=False)
    assert interactive.complete(plain).deadlines == plain.deadlines
    assert batch.complete(plain).deadlines.first_token == 1200.0
    own = msgspec.structs.replace(
        plain, targets=Targets(ttft=9.0), deadlines=Deadlines(first_token=3.0)
    )
    assert batch.complete(own) is own

"""What lighter lanes leave of a worker, over the real registry."""

from __future__ import annotations

from typing import cast

import pytest
from make_request import make_request
from scripted_workers import LAYOUT, MODEL

from baton.protocol.ids import Identity
from baton.protocol.link import Session
from baton.protocol.records import WorkerHello
from baton.router.flight import Flight
from baton.router.lane_room import ACTIVE, LaneRoom
from baton.router.lanes import Lanes
from baton.router.registry import Registry


class OpenSession:
    is_open = True


def setup() -> tuple[Registry, LaneRoom]:
    registry, lanes = Registry(), Lanes()
    hello = WorkerHello(
        identity=Identity("m0", 1), pid=1, host="h", role="mixed", model=MODEL, layout=LAYOUT,
        num_blocks=100, max_running=44, peer_address="ipc:///m0", device="cpu",
    )
    registry.add(hello, cast(Session, OpenSession()), 0.0)
    return registry, LaneRoom(registry, lanes)


def flight(number: int, lane: str) -> Flight:
    return Flight(make_request(f"r{number}", [1] * 15, lane=lane), number, 0.0, lambda *_: None)


def seen(registry: Registry, reserve: LaneRoom, one: Flight) -> tuple[int, int]:
    """(slots, blocks) that a flight may use of the worker."""
    (candidate,) = reserve.for_flight(one, registry.candidates())
    return candidate.max_running, candidate.available_blocks


@pytest.mark.parametrize("lane", ["interactive", "batch"])
def test_the_last_quarter_is_not_for_batch(lane: str) -> None:
    registry, reserve = setup()
    (worker,) = registry
    assert seen(registry, reserve, flight(0, lane)) == (44, 100)  # it has nothing to do
    for number in range(1, 11):
        worker.hold_decode(flight(number, "batch"))
    whole = (44, 90)
    limited = (33, 65)
    assert seen(registry, reserve, flight(0, lane)) == (whole if lane == "interactive" else limited)


def test_its_share_by_weight_is_not_limited_nor_what_had_begun() -> None:
    registry, reserve = setup()
    (worker,) = registry
    for number in range(1, 41):
        worker.hold_decode(flight(number, "interactive"))
    for number in range(50, 54):  # a slot in eleven: four of 44
        assert seen(registry, reserve, flight(0, "batch")) == (44, 60 - (number - 50))
        worker.hold_decode(flight(number, "batch"))
    assert seen(registry, reserve, flight(0, "batch")) == (33, 31)
    begun = flight(0, "batch")
    begun.trouble.recompute = True
    assert seen(registry, reserve, begun) == (44, 56)


def test_intervals_are_left_for_heavier_lanes_while_these_are_in_use() -> None:
    registry, reserve = setup()
    (worker,) = registry
    worker.hold_decode(flight(1, "batch"))

    def left(lane: str, now: float) -> float | None:
        return reserve.interval(flight(0, lane), worker.identity, now)

    assert left("batch", 0.0) is None
    reserve.arrived("interactive", 5.0)
    assert left("batch", 6.0) == 0.1
    assert left("interactive", 6.0) is None
    assert left("batch", 5.0 + ACTIVE) is None


def test_a_light_lane_has_one_stream_on_a_worker_in_any_case() -> None:
    registry, reserve = setup()
    (worker,) = registry
    reserve.arrived("interactive", 5.0)
    worker.hold_decode(flight(1, "interactive"))
    assert reserve.interval(flight(0, "batch"), worker.identity, 6.0) is None
    worker.hold_decode(flight(2, "batch"))
    assert reserve.interval(flight(0, "batch"), worker.identity, 6.0) == 0.1

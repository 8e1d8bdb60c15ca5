"""Two routers over the same workers: each serves its own clients, and one that dies takes nothing
of the other's with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, wait_for
from kinds import Answer, Calls, assert_complete, assert_same, calls_of_all_kinds
from separate import Separate
from tiny_model import make_tiny_model

from baton.bench.faults.proxy import free_port

CALLS = calls_of_all_kinds(each=2, seed=9, output=(500, 700))
LONG = calls_of_all_kinds(each=2, seed=9, output=(1500, 1500))
"""Still in their middle when something has happened that takes heartbeats."""


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[tuple[Cluster, Cluster]]:
    """Two, with a prefill and two decode workers that have joined both."""
    model = make_tiny_model(tmp_path / "tiny", max_position=2048)
    controls = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with Separate(model) as parts:
        parts.worker("prefill", "p", controls)
        parts.worker("decode", "d", controls)
        parts.worker("decode", "e", controls)
        first, second = (
            parts.launch_router(control, f"router-{n}") for n, control in enumerate(controls)
        )
        yield parts.joined(first), parts.joined(second)


def running(router: Cluster) -> int:
    """Sequences that workers run, whoever asked for them."""
    return sum(int(worker["load"]["running"]) for worker in router.workers())


def steps(router: Cluster) -> int:
    """Of the worker that has computed most."""
    return max(int(worker["load"]["steps"]) for worker in router.workers())


def broken(answer: Answer) -> bool:
    """Ended by the connection, with no word that all were well."""
    return answer.error is not None and not answer.done


def test_one_of_two_routers_dies_and_the_others_clients_do_not_notice(
    routers: tuple[Cluster, Cluster],
) -> None:
    dying, staying = routers
    expected = Calls(staying.url, CALLS, "undisturbed").wait()
    assert_complete(CALLS, expected)
    # Both at once first: neither disturbs the other.
    both = [Calls(router.url, CALLS, "both") for router in routers]
    for calls in both:
        assert_same(CALLS, calls.wait(), expected)

    lost, unharmed = (Calls(router.url, CALLS, "one dies") for router in routers)
    wait_for(lambda: min(lost.streamed, unharmed.streamed) >= 100, "streams in their middle")
    begun = lost.in_flight
    assert min(begun, unharmed.left) > 0.8 * len(CALLS), "too late: they have ended"
    dying.launcher.kill()

    assert_same(CALLS, unharmed.wait(), expected)
    assert staying.metric_sum("baton_retries_total") == 0
    assert sum(map(broken, lost.wait())) > begun / 2
    # Also what belonged to the dead one is free again.
    staying.assert_clean()
    assert staying.metric_sum("baton_worker_detection_seconds_count") == 0
    assert_same(CALLS, Calls(staying.url, CALLS, "alone").wait(), expected)
    staying.assert_clean()


def test_what_a_dead_router_asked_for_is_not_computed_to_its_end(
    routers: tuple[Cluster, Cluster],
) -> None:
    dying, staying = routers
    lost = Calls(dying.url, LONG, "dies")
    wait_for(lambda: lost.streamed >= 200, "streams in their middle")
    wait_for(lambda: running(staying) > 0, "the other one hears of the work")
    before = steps(staying)
    dying.launcher.kill()
    staying.assert_clean()
    # Each step is one token of each.
    assert steps(staying) - before < min(call.max_tokens for call in LONG) / 2
    assert any(map(broken, lost.wait()))


def seen(router: Cluster, worker: str) -> dict[str, Any]:
    [view] = [view for view in router.workers() if view["id"] == worker]
    found: dict[str, Any] = view
    return found


def states(routers: tuple[Cluster, Cluster], worker: str) -> set[str]:
    return {str(seen(router, worker)["state"]) for router in routers}


def test_a_worker_drained_at_one_router_is_emptied_by_both(
    routers: tuple[Cluster, Cluster],
) -> None:
    first, second = routers
    expected = Calls(second.url, CALLS, "undisturbed").wait()
    longer = Calls(second.url, LONG, "undisturbed").wait()
    first.post("/admin/workers/e/drain", {})  # so all is with the one to be drained next
    wait_for(lambda: states(routers, "e") == {"draining"}, "both leave one worker alone")
    both = [Calls(router.url, LONG, "drained") for router in routers]
    wait_for(lambda: min(calls.streamed for calls in both) >= 100, "streams in their middle")
    assert min(seen(router, "d")["outstanding"] for router in routers) > 0
    second.post("/admin/workers/e/undrain", {})
    first.post("/admin/workers/d/drain", {})
    wait_for(
        lambda: all(
            view["state"] == "draining" and not view["outstanding"] and not view["load"]["running"]
            for view in (seen(router, "d") for router in routers)
        ),
        "both have emptied it",
    )
    assert min(calls.in_flight for calls in both) > 0, "too late: they have ended"
    for calls in both:
        assert_same(LONG, calls.wait(), longer)
    before = seen(second, "d")["load"]["steps"]
    assert_same(CALLS, Calls(second.url, CALLS, "elsewhere").wait(), expected)
    assert seen(second, "d")["load"]["steps"] == before
    second.post("/admin/workers/d/undrain", {})
    wait_for(lambda: states(routers, "d") == {"ready"}, "both use it again")
    assert_same(CALLS, Calls(first.url, CALLS, "again").wait(), expected)
    wait_for(lambda: seen(first, "d")["load"]["steps"] > before, "it has computed something")
    for router in routers:
        router.assert_clean()


def test_when_the_leader_dies_the_other_router_sizes_the_pools_in_a_higher_term(
    tmp_path: Path,
) -> None:
    """Nobody decodes: whoever leads makes one worker do both."""
    model = make_tiny_model(tmp_path / "tiny", max_position=1024)
    controls = [f"127.0.0.1:{free_port()}" for _ in range(2)]

    def sizing(router: Cluster) -> dict[str, Any]:
        found: dict[str, Any] = router.get("/admin/sizing")
        return found

    def mixed(router: Cluster) -> list[dict[str, Any]]:
        return [view for view in sizing(router)["workers"] if view["role"] == "mixed"]

    with Separate(model) as parts:
        for name in ("a", "b", "c"):
            parts.worker("prefill", name, controls)
        leading, other = (
            parts.joined(router) for router in [
                parts.launch_router(control, f"router-{n}", "--ttft", "2s", "--itl", "200ms")
                for n, control in enumerate(controls)
            ]
        )
        wait_for(lambda: mixed(other), "the leader has acted", 30)
        [worker] = mixed(other)
        # Alone a router leads too; of the other one it hears at its next tick.
        wait_for(lambda: sizing(other)["leader"] == "router-0", "it has heard of the leader")
        assert (sizing(leading)["leads"], sizing(other)["leads"]) == (True, False)
        term = sizing(leading)["term"]
        assert worker["term"] == term
        leading.launcher.kill()
        wait_for(lambda: sizing(other)["leads"], "the other one leads", 30)
        assert sizing(other)["routers"] == ["router-1"]
        other.post(f"/admin/workers/{worker['id']}/role", {"role": "prefill"})
        wait_for(
            lambda: any(view["id"] != worker["id"] for view in mixed(other)), "it has acted", 30
        )
        [chosen] = [view for view in mixed(other) if view["id"] != worker["id"]]
        assert chosen["term"] == sizing(other)["term"] > term

"""Two routers over the same workers: each serves its own clients, and one that dies takes nothing
of the other's with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import ATTEMPTS, Cluster, held, wait_for
from kinds import Answer, Calls, assert_complete, assert_same, calls_of_all_kinds
from separate import Separate
from tiny_model import make_tiny_model

from baton.bench.faults.proxy import free_port

CALLS = calls_of_all_kinds(each=2, seed=9, output=(300, 400))
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

    for attempt in range(ATTEMPTS):
        lost, unharmed = both = [Calls(router.url, CALLS, f"dies {attempt}") for router in routers]
        wait_for(lambda them=both: all(calls.streamed >= 100 or not calls.left for calls in them),
                 "streams in their middle")
        with held(worker["pid"] for worker in staying.workers()):
            begun = lost.in_flight
            if min(begun, unharmed.left) > 0.8 * len(CALLS):
                dying.launcher.kill()
                break
        for calls in both:
            calls.wait()
    else:
        pytest.fail("too late each time: they had ended")

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
    for attempt in range(ATTEMPTS):
        lost = Calls(dying.url, LONG, f"dies {attempt}")
        wait_for(
            lambda it=lost: not it.left or (it.streamed >= 200 and running(staying) > 0),
            "the other one hears of streams in their middle",
        )
        with held(worker["pid"] for worker in staying.workers()):
            before = steps(staying)
            if lost.in_flight > 0.8 * len(LONG):
                dying.launcher.kill()
                dying.launcher.wait()
                break
        lost.wait()
    else:
        pytest.fail("too late each time: they had ended")
    staying.assert_clean()
    # Each step is one token of each. (What was known of them may be as old as a heartbeat.)
    assert steps(staying) - before < min(call.max_tokens for call in LONG) / 2
    assert any(map(broken, lost.wait()))


def seen(router: Cluster, worker: str) -> dict[str, Any]:
    [view] = [view for view in router.workers() if view["id"] == worker]
    found: dict[str, Any] = view
    return found


def is_empty(router: Cluster, worker: str) -> bool:
    view = seen(router, worker)
    left = view["outstanding"] or view["load"]["running"]
    return view["state"] == "draining" and not left


def states(routers: tuple[Cluster, Cluster], worker: str) -> set[str]:
    return {str(seen(router, worker)["state"]) for router in routers}


def test_a_worker_drained_at_one_router_is_emptied_by_both(
    routers: tuple[Cluster, Cluster],
) -> None:
    first, second = routers
    expected = Calls(second.url, CALLS, "undisturbed").wait()
    longer = Calls(second.url, LONG, "undisturbed").wait()
    for attempt in range(ATTEMPTS):
        first.post("/admin/workers/e/drain", {})  # so all is with the one to be drained next
        wait_for(lambda: states(routers, "e") == {"draining"}, "both leave one worker alone")
        both = [Calls(router.url, LONG, f"drained {attempt}") for router in routers]
        wait_for(lambda them=both: all(calls.streamed >= 100 or not calls.left for calls in them),
                 "streams in their middle")
        had = [seen(router, "d")["outstanding"] for router in routers]
        second.post("/admin/workers/e/undrain", {})
        first.post("/admin/workers/d/drain", {})
        wait_for(lambda: all(is_empty(router, "d") for router in routers), "both have emptied it")
        in_time = min(calls.in_flight for calls in both) > 0
        for calls in both:
            assert_same(LONG, calls.wait(), longer)
        if in_time and min(had) > 0:
            break
        first.post("/admin/workers/d/undrain", {})
        wait_for(lambda: states(routers, "d") == states(routers, "e") == {"ready"}, "both again")
    else:
        pytest.fail("too late each time: they had ended")
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
        targets = ("--ttft", "2s", "--itl", "200ms")
        # Alone a router leads too, so the other one comes when there is nothing to do any more.
        leading = parts.joined(parts.launch_router(controls[0], "router-0", *targets))
        wait_for(lambda: mixed(leading), "the leader has acted")
        other = parts.joined(parts.launch_router(controls[1], "router-1", *targets))
        wait_for(lambda: sizing(other)["leader"] == "router-0", "it has heard of the leader")
        wait_for(lambda: mixed(other), "and of what it did")
        [worker] = mixed(other)
        assert (sizing(leading)["leads"], sizing(other)["leads"]) == (True, False)
        term = sizing(leading)["term"]
        assert worker["term"] == term
        leading.launcher.kill()
        wait_for(lambda: sizing(other)["leads"], "the other one leads")
        wait_for(lambda: sizing(other)["routers"] == ["router-1"], "it is alone")
        other.post(f"/admin/workers/{worker['id']}/role", {"role": "prefill"})
        wait_for(
            lambda: any(view["id"] != worker["id"] for view in mixed(other)), "it has acted"
        )
        [chosen] = [view for view in mixed(other) if view["id"] != worker["id"]]
        assert chosen["term"] == sizing(other)["term"] > term

"""Two routers over the same workers: each serves its own clients, and one that dies takes nothing
of the other's with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, wait_for
from kinds import Answer, Calls, assert_complete, assert_same, calls_of_all_kinds
from separate import Separate, free_port
from tiny_model import make_tiny_model

CALLS = calls_of_all_kinds(each=2, seed=9, output=(500, 700))
LONG = calls_of_all_kinds(each=2, seed=9, output=(800, 800))


@pytest.fixture
def routers(tmp_path: Path) -> Iterator[tuple[Cluster, Cluster]]:
    """Two, with a prefill and two decode workers that have joined both."""
    model = make_tiny_model(tmp_path / "tiny", max_position=1024)
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

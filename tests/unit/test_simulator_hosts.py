"""Workers of one host share its link: what leaves and what arrives waits for its turn there, each
direction for itself, and what stays on the host does not."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from simulated import arrivals, machine

from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.cluster import Cluster
from baton.bench.simulator.events import Fails, Joins
from baton.bench.simulator.network import Network
from baton.bench.simulator.node import Node
from baton.protocol.curves import LinkCurve
from baton.protocol.errors import ConfigError
from baton.protocol.ids import Identity

MADE = machine(byte=1e-7)
BYTES = 10_000_000
SECONDS = 1.0
LATENCY = MADE.link.latency
NVLINK = LinkCurve(latency=1e-5, byte=1e-9, spread=0.0, transfers=100)


def nodes(per_host: int, count: int = 6, made: object = MADE) -> tuple[Network, list[Node]]:
    network = Network(SimulatedLoop(), per_host)
    return network, [
        Node(network, Identity(f"w{n}", 1), made, Random(n))  # type: ignore[arg-type]
        for n in range(count)
    ]


@pytest.mark.parametrize(("per_host", "times"), [(1, 1), (2, 2)])
def test_two_senders_on_one_host_take_twice_as_long_as_on_two(per_host: int, times: int) -> None:
    network, (one, two, far, _, farther, _) = nodes(per_host)
    first, _ = network.carry(one, far, BYTES)
    last, alone = network.carry(two, farther, BYTES)
    assert first == pytest.approx(SECONDS + LATENCY)
    assert last == pytest.approx(times * SECONDS + LATENCY)
    assert alone == pytest.approx(SECONDS)


@pytest.mark.parametrize(("per_host", "times"), [(1, 1), (2, 2)])
def test_two_receivers_on_one_host_wait_for_each_other(per_host: int, times: int) -> None:
    network, (one, two, far, _, farther, _) = nodes(per_host)
    network.carry(far, one, BYTES)
    last, _ = network.carry(farther, two, BYTES)
    assert last == pytest.approx(times * SECONDS + LATENCY)


def test_directions_do_not_meet_and_what_stays_on_the_host_meets_nobody() -> None:
    network, (one, two, far, *_) = nodes(2)
    network.carry(one, far, BYTES)
    back, _ = network.carry(far, two, BYTES)
    here, _ = network.carry(one, two, BYTES)
    assert back == here == pytest.approx(SECONDS + LATENCY)
    again, _ = network.carry(one, two, BYTES)
    assert again == pytest.approx(2 * SECONDS + LATENCY)


def test_within_a_host_its_own_link_counts() -> None:
    made = replace(MADE, local_link=NVLINK)
    network, (one, two, far, *_) = nodes(2, made=made)
    near, _ = network.carry(one, two, BYTES)
    away, _ = network.carry(one, far, BYTES)
    assert near == pytest.approx(1e-9 * BYTES + NVLINK.latency)
    assert away == pytest.approx(SECONDS + LATENCY)
    assert one.link_to("w1") == NVLINK
    assert one.link_to("w2") == MADE.link


def test_two_prompts_at_once_share_the_link_of_their_workers_hosts() -> None:
    def longest(per_host: int) -> list[float]:
        cluster = Cluster(
            [("prefill", MADE)] * 2 + [("decode", MADE)] * 2, seed=1, workers_per_host=per_host
        )
        run = cluster.run(arrivals([0.1, 0.1], prompt=500, length=5))
        cluster.loop.run_until(cluster.loop.time() + 5)
        cluster.check_idle()
        assert run.decisions["remote split"] == 2
        return sorted(outcome.longest_gap for outcome in run.outcomes)

    wire = 1e-7 * 32 * MADE.layout.block_bytes
    apart, together = longest(1), longest(2)
    assert apart[0] == pytest.approx(apart[1])
    assert together[0] == pytest.approx(apart[0])
    assert together[1] - together[0] == pytest.approx(wire, rel=0.01)


def test_who_joins_fills_the_next_place_and_who_starts_again_keeps_its_own() -> None:
    cluster = Cluster([("mixed", MADE)] * 3, seed=1, workers_per_host=2)
    cluster.schedule([
        Fails(at=0.5, worker="mixed-0", back_after=0.5), Joins(at=0.7, role="mixed"),
        Joins(at=0.8, role="mixed"),
    ])
    cluster.loop.run_until(2.0)
    hosts = {name: worker.hello().host for name, worker in cluster.workers.items()}
    assert hosts == {
        "mixed-0": "host-0", "mixed-1": "host-0", "mixed-2": "host-1", "mixed-3": "host-1",
        "mixed-4": "host-2",
    }
    assert cluster.workers["mixed-0"].identity.epoch == 2


def test_a_router_learns_the_link_within_a_host_apart_from_the_other() -> None:
    made = replace(MADE, local_link=NVLINK)
    cluster = Cluster([("prefill", made), ("decode", made)], seed=1, workers_per_host=2)
    cluster.run(arrivals([0.1, 1.0], prompt=500, length=5))
    entry = cluster.dispatchers[0].registry.named("prefill-0")
    assert entry is not None
    assert entry.curves is not None
    assert dict(entry.curves.links) == {"decode-1": NVLINK}


def test_hosts_without_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 workers per host"):
        Cluster([("mixed", MADE)], seed=1, workers_per_host=0)

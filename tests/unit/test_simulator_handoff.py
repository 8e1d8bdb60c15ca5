"""Hand-offs in simulated time: an undisturbed one takes what link, latency and steps take together,
and what disturbs one is dealt with by the machines that serve: leases, aborts, quarantine."""

from __future__ import annotations

from collections import Counter

import pytest
from simulated import arrivals, machine, poisson

from baton.bench.simulator.cluster import Cluster
from baton.bench.simulator.events import DETECTION, Event, Fails
from baton.bench.simulator.peers import MESSAGE_TOKENS, scheme_of
from baton.bench.simulator.session import LATENCY
from baton.decode.stage import LAST_BYTES_SECONDS
from baton.engine.block_pool import BlockCounts
from baton.kvtransfer.handoff.receiver import SESSION_GRACE
from baton.protocol.ids import Identity
from baton.protocol.kvlayout import KVLayout

STEP = 10e-3
PROMPT, BLOCKS = 500, 32
SLOW = machine(byte=5e-7)
SECONDS = 5e-7 * BLOCKS * SLOW.layout.block_bytes
"""That such a prompt is under way: a second and a bit."""


def split(*roles: str, seed: int = 1) -> Cluster:
    return Cluster([(role, SLOW) for role in roles], seed=seed)


def blocks(cluster: Cluster, name: str) -> BlockCounts:
    return cluster.workers[name].engine.scheduler.load().blocks


def handoffs(cluster: Cluster) -> Counter[str]:
    return sum((worker.handoffs for worker in cluster.workers.values()), Counter())


def finish(cluster: Cluster) -> None:
    cluster.loop.run_until(cluster.loop.time() + 5)
    cluster.check_idle()


@pytest.mark.parametrize("byte", [0.0, 1e-9, 1e-7])
def test_the_second_token_waits_for_bytes_seal_and_step_and_nothing_else(byte: float) -> None:
    made = machine(byte=byte)
    cluster = Cluster([("prefill", made), ("decode", made)], seed=1)
    run = cluster.run(arrivals([0.1], prompt=PROMPT, length=5))
    finish(cluster)
    expected = byte * BLOCKS * made.layout.block_bytes + made.link.latency + LATENCY + STEP
    assert run.outcomes[0].longest_gap == pytest.approx(expected, rel=1e-6)
    assert handoffs(cluster) == {"send prefill acked": 1, "receive request admitted": 1}


def test_what_the_receiver_dies_of_costs_the_sender_no_blocks() -> None:
    cluster = split("prefill", "decode")
    cluster.schedule([Fails(at=0.1 + SECONDS / 2, worker="decode-1")])
    held: list[int] = []
    for after in (0.9 * DETECTION, 1.1 * DETECTION):
        cluster.loop.at(0.1 + SECONDS / 2 + after,
                        lambda: held.append(blocks(cluster, "prefill-0").held))
    run = cluster.run(arrivals([0.1], prompt=PROMPT, length=20))
    finish(cluster)
    assert held == [BLOCKS, 0]
    assert run.retries == {"worker_lost": 1}
    assert [(o.end, o.tokens) for o in run.outcomes] == [("stop", 20)]
    assert handoffs(cluster)["send prefill peer_lost"] == 1


def test_what_a_dead_sender_may_still_write_is_quarantined_until_it_cannot() -> None:
    cluster = split("prefill", "decode")
    seen: dict[float, BlockCounts] = {}
    death = 0.1 + 0.7 * SECONDS

    def look() -> None:
        seen[round(cluster.loop.time() - death, 3)] = blocks(cluster, "decode-1")

    cluster.loop.at(death, lambda: cluster.kill("prefill-0", noticed=DETECTION))
    times = (0.9 * DETECTION, 2 * DETECTION, 0.9 * LAST_BYTES_SECONDS, LAST_BYTES_SECONDS + 0.6)
    for after in times:
        cluster.loop.at(death + after, look)
    run = cluster.run(arrivals([0.1], prompt=PROMPT, length=300))
    finish(cluster)
    before, noticed, waiting, over = seen.values()
    assert before.held == BLOCKS
    assert before.quarantined == 0
    # The first of two messages had arrived.
    assert noticed.quarantined == waiting.quarantined == BLOCKS // 2
    assert over.quarantined == 0
    assert [(o.end, o.tokens) for o in run.outcomes] == [("stop", 300)]
    assert handoffs(cluster)["receive request peer_lost"] == 1


def test_a_cancelled_hand_off_answers_every_tag() -> None:
    cluster = split("prefill", "decode")

    def cancel() -> None:
        assert cluster.workers["decode-1"].node.landings
        for flight in list(cluster.dispatchers[0]._flights.values()):
            flight.cancel("test")

    cluster.loop.at(0.1 + SECONDS / 2, cancel)
    still: list[int] = []
    cluster.loop.at(0.1 + SECONDS / 2 + 10 * LATENCY,
                    lambda: still.append(blocks(cluster, "decode-1").quarantined))
    cluster.run(arrivals([0.1], prompt=PROMPT, length=20))
    finish(cluster)
    assert still[0] > 0
    assert handoffs(cluster) == {"send prefill cancelled": 1, "receive request cancelled": 1}


def test_cancelled_while_the_prompt_is_computed_all_tags_are_answered_with_nothing() -> None:
    cluster = Cluster([("prefill", machine(base=1.0)), ("decode", machine(base=1.0))], seed=1)
    cluster.loop.at(0.5, lambda: [
        flight.cancel("test") for flight in list(cluster.dispatchers[0]._flights.values())
    ])
    waiting: list[int] = []
    for at in (0.4, 0.6):
        cluster.loop.at(at, lambda: waiting.append(
            len(cluster.workers["decode-1"].node.landings)))
    cluster.run(arrivals([0.1], prompt=PROMPT, length=20))
    finish(cluster)
    assert waiting == [2, 0]  # messages of 1 MiB, 16 blocks each


def test_a_hand_off_that_goes_on_is_not_given_up_however_long_it_takes() -> None:
    """40 seconds, where a hand-off without progress lives for 30."""
    slowest = machine(byte=2e-5)
    cluster = Cluster([("prefill", slowest), ("decode", slowest)], seed=1)
    run = cluster.run(arrivals([0.1], prompt=PROMPT, length=3))
    finish(cluster)
    assert run.outcomes[0].longest_gap > 40
    assert run.decisions["remote split"] == 1
    assert not run.retries
    assert handoffs(cluster) == {"send prefill acked": 1, "receive request admitted": 1}


def test_a_reservation_whose_sender_never_comes_ends() -> None:
    cluster = split("prefill", "decode")
    cluster.loop.run_until(1.0)
    # Whatever the router tells the sender of KV is lost.
    setattr(cluster._sessions["prefill-0"][0], "_deliver", lambda *record: None)  # noqa: B010
    held: list[int] = []
    for after in (0.9 * SESSION_GRACE, SESSION_GRACE + 0.6):
        cluster.loop.at(1.1 + after, lambda: held.append(blocks(cluster, "decode-1").held))
    cluster.run(arrivals([1.1], prompt=PROMPT, length=3), until=1.1 + SESSION_GRACE + 1.0)
    assert held[0] == BLOCKS
    assert handoffs(cluster) == {"receive request expired": 1}


def test_a_sender_dials_the_next_life_anew_and_the_last_one_no_more() -> None:
    cluster = split("prefill", "decode")
    cluster.schedule([Fails(at=0.1 + SECONDS / 2, worker="decode-1", back_after=0.3)])
    run = cluster.run(arrivals([0.1, 5.0], prompt=PROMPT, length=20))
    finish(cluster)
    outgoing = cluster.workers["prefill-0"].node.outgoing
    assert outgoing.was_refused(Identity("decode-1", 1))
    assert not outgoing.was_refused(Identity("decode-1", 2))
    assert {(o.end, o.tokens) for o in run.outcomes} == {("stop", 20)}
    assert handoffs(cluster)["receive request admitted"] >= 1


@pytest.mark.parametrize(("seed", "fast_forward"), [(0, False), (1, True), (2, True)])
def test_deaths_in_the_midst_of_hand_offs_leave_nothing(seed: int, fast_forward: bool) -> None:
    """Every worker dies twice, others while they come back, over a link that is in use."""
    made = machine(token=1e-4, decode=1e-4, byte=2e-8, spread=0.1)
    names = [f"prefill-{n}" for n in range(3)] + [f"decode-{n}" for n in range(3, 6)]
    deaths: list[Event] = [
        Fails(at=1.0 + 1.37 * n + 0.1 * seed, worker=names[n * 5 % 6], back_after=0.5)
        for n in range(12)
    ]
    cluster = Cluster([(name.split("-")[0], made) for name in names], seed=seed,
                      fast_forward=fast_forward)
    cluster.schedule(deaths)
    run = cluster.run(arrivals(poisson(12, 20, seed=seed), prompt=800, length=40))
    finish(cluster)
    assert len(run.happened) == 24
    assert {(o.end, o.tokens) for o in run.outcomes} <= {("stop", 40), ("too_many_failures", 0)}
    assert sum(o.served for o in run.outcomes) >= len(run.outcomes) - 2
    ends = handoffs(cluster)
    assert ends["send prefill acked"] > 50


@pytest.mark.parametrize(("block_size", "blocks_per_message"), [
    (16, 16),  # of 64 KiB: 1 MiB, as real ones by their rule
    (512, 1),
])
def test_messages_are_as_large_as_real_ones_or_worth_an_event(
    block_size: int, blocks_per_message: int
) -> None:
    layout = KVLayout(8, 4, 32, block_size, "float16")
    assert scheme_of(layout).blocks_per_message == blocks_per_message
    large = KVLayout(80, 8, 128, 16, "bfloat16")
    assert scheme_of(large).blocks_per_message * 16 == MESSAGE_TOKENS

"""What counts as a death, whose fault it can be, and how much is recomputed at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from scripted_workers import FAST, LAYOUT, MODEL, Cluster, FakeWorker, read, serving, until

from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.link import GOODBYE, LossCause, Session
from baton.protocol.link.frames import AliveFrame, ByeFrame
from baton.protocol.records import Cancel, Generate, Request, WorkerHello
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens
from baton.router.candidates import Candidate, RequestFacts
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.metrics import RouterMetrics
from baton.router.policy import Decision, Wait, decide
from baton.router.registry import CERTAIN_BLAME, POSSIBLE_BLAME, Worker
from baton.router.ways import RECOMPUTE_TOKENS


class Lives:
    """A dispatcher with one worker at a time, over sessions that a test drives by hand."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher()
        self.epoch = 0
        self.session: Session
        self.worker: Worker

    def begin(self) -> None:
        self.epoch += 1
        hello = WorkerHello(
            identity=Identity(f"w{self.epoch}", self.epoch), pid=1, host="h", role="mixed",
            model=MODEL, layout=LAYOUT, num_blocks=100, max_running=8, peer_address="p",
            device="cpu",
        )
        self.session = Session(self.epoch, 2, hello, now=0.0, notify=lambda: None, settings=FAST)
        self.worker = self.dispatcher.worker_joined(hello, self.session)

    def submit(self) -> Flight:
        return self.dispatcher.submit(Request(
            key=RequestKey("r", 0), choice=0, prompt=pack_tokens(range(20)),
            sampling=SamplingParams(seed=1, max_tokens=6),
        ))

    def acknowledge(self) -> None:
        self.session.poll(0.0)
        self.session.receive(AliveFrame(2, self.epoch, 1), 0.0)

    def end(self, cause: LossCause = LossCause.PROCESS) -> None:
        self.session.lose("gone", cause)
        self.dispatcher.worker_lost(self.worker, "gone")

    def holds(self, flight: Flight) -> bool:
        return self.worker.identity in flight.holders


async def holds_soon(lives: Lives, flight: Flight) -> None:
    await until(lambda: lives.holds(flight))


async def test_blame_follows_what_is_known_of_the_request() -> None:
    lives = Lives()
    lives.begin()
    flight = lives.submit()
    assert lives.worker.blame(flight) == 0  # queued in the session, and no further
    lives.session.poll(0.0)
    assert lives.worker.blame(flight) == POSSIBLE_BLAME
    lives.acknowledge()
    assert lives.worker.blame(flight) == CERTAIN_BLAME
    flight.cancel("enough")
    assert lives.worker.sent == {}
    lives.dispatcher.close()


async def test_two_certain_deaths_end_a_request() -> None:
    lives = Lives()
    lives.begin()
    flight = lives.submit()
    for _ in range(2):
        await holds_soon(lives, flight)
        assert not flight.ended
        lives.acknowledge()
        lives.end()
        lives.begin()
    assert flight.outcome == "too_many_failures"
    lives.dispatcher.close()


async def test_four_possible_deaths_end_a_request() -> None:
    """It may kill so fast that nobody ever acknowledges it."""
    lives = Lives()
    lives.begin()
    flight = lives.submit()
    for _ in range(4):
        await holds_soon(lives, flight)
        assert not flight.ended
        lives.session.poll(0.0)
        lives.end()
        lives.begin()
    assert flight.outcome == "too_many_failures"
    lives.dispatcher.close()


@pytest.mark.parametrize("how", ["never left", "goodbye", "dialed again", "draining"])
async def test_other_ends_are_nobodys_fault(how: str) -> None:
    lives = Lives()
    lives.begin()
    flight = lives.submit()
    for _ in range(6):
        await holds_soon(lives, flight)
        if how == "never left":
            lives.session.connection_broken(0.0)
            lives.session.poll(0.0)
            lives.end()
        elif how == "draining":
            lives.acknowledge()
            lives.worker.state = "draining"
            lives.end()
        elif how == "goodbye":
            lives.acknowledge()
            lives.session.receive(ByeFrame(2, lives.epoch, GOODBYE), 0.0)
            assert lives.session.cause is LossCause.GOODBYE
            lives.dispatcher.worker_lost(lives.worker, GOODBYE)
        else:
            lives.acknowledge()
            lives.end(LossCause.HERE)
        lives.begin()
    await holds_soon(lives, flight)
    assert not flight.ended
    assert flight.key.attempt == 6
    flight.cancel("enough")
    lives.dispatcher.close()


async def test_another_life_of_a_worker_means_that_the_earlier_one_died() -> None:
    lives = Lives()
    lives.begin()
    flight = lives.submit()
    lives.acknowledge()
    old = lives.worker
    again = WorkerHello(
        identity=Identity("w1", 99), pid=2, host="h", role="mixed", model=MODEL, layout=LAYOUT,
        num_blocks=100, max_running=8, peer_address="p", device="cpu",
    )
    session = Session(9, 2, again, now=0.0, notify=lambda: None, settings=FAST)
    lives.dispatcher.worker_joined(again, session)
    assert flight.trouble.lost_workers == {old.identity: CERTAIN_BLAME}
    assert old.session.cause is LossCause.PROCESS
    lives.dispatcher.close()


# -- with real sessions ----------------------------------------------------------------------


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving() as made:
        yield made


async def test_a_worker_that_fails_with_a_word_counts_as_dead(cluster: Cluster) -> None:
    for number in range(3):
        (await cluster.add(f"m{number}", "mixed")).stop_at = 2
    flight = cluster.submit()
    for _ in range(2):
        await until(lambda: flight.holders != {} and len(flight.accepted) == 2)
        (holder,) = flight.holders
        worker = cluster.dispatcher.registry.get(holder)
        assert worker is not None
        await until(lambda worker=worker: worker.blame(flight) == CERTAIN_BLAME)
        await cluster.workers[holder].dialer.close("the engine failed")
        await until(lambda holder=holder: holder not in flight.holders)
    with pytest.raises(BatonError) as caught:
        await read(flight)
    assert caught.value.code == "too_many_failures"
    assert [cause for cause, _ in cluster.counts.deaths] == ["failed"] * 2


async def test_detection_and_redispatch_are_reported(cluster: Cluster) -> None:
    first = await cluster.add("m0", "mixed")
    first.stop_at = 2
    flights = [cluster.submit() for _ in range(3)]
    await until(lambda: all(len(flight.accepted) == 2 for flight in flights))
    second = await cluster.add("m1", "mixed")
    await first.kill()
    for flight in flights:
        assert len(await read(flight)) == 6
    assert len(second.keys(Generate)) == 3
    ((cause, silence),) = cluster.counts.deaths
    assert cause == "connection"
    assert silence >= FAST.reconnect_grace
    await until(lambda: len(cluster.counts.redispatches) == 3)
    assert all(what == "nothing" for what, _ in cluster.counts.redispatches)
    await second.dialer.close()
    await until(lambda: len(cluster.dispatcher.registry) == 0)
    assert len(cluster.counts.deaths) == 1  # the second one said good-bye


async def test_waiting_for_room_is_told_from_redispatch_at_once(cluster: Cluster) -> None:
    first = await cluster.add("m0", "mixed")
    first.stop_at = 1
    flights = [cluster.submit() for _ in range(3)]
    await until(lambda: all(len(flight.accepted) == 1 for flight in flights))
    await cluster.add("m1", "mixed", max_running=1)
    await first.kill()
    for flight in flights:
        assert len(await read(flight)) == 6
    await until(lambda: len(cluster.counts.redispatches) == 3)
    assert [what for what, _ in cluster.counts.redispatches] == ["nothing", "busy", "busy"]


def test_they_are_on_the_metrics_page() -> None:
    metrics = RouterMetrics()
    metrics.worker_died("process", 0.003)
    metrics.redispatched("nothing", 0.02)
    sample = metrics.registry.get_sample_value
    detection = "baton_worker_detection_seconds"
    assert sample(f"{detection}_bucket", {"cause": "process", "le": "0.005"}) == 1
    assert sample(f"{detection}_bucket", {"cause": "process", "le": "0.002"}) == 0
    assert sample("baton_redispatch_seconds_sum", {"waited_for": "nothing"}) == 0.02


# -- throttling ------------------------------------------------------------------------------

NUMBERS = {"max_running": 64, "decoding": 0, "prefilling": 0, "available_blocks": 1000}
LOST = RequestFacts(tokens=200, blocks=13, remaining=10, recompute=True)
FRESH = RequestFacts(tokens=200, blocks=13, remaining=10)


def candidate(name: str, role: str, **values: int) -> Candidate:
    return Candidate(identity=Identity(name, 1), role=role, **{**NUMBERS, **values})


def test_recomputation_is_bounded_where_streams_run() -> None:
    room = RECOMPUTE_TOKENS - LOST.tokens
    for role in ("mixed", "decode", "prefill"):
        for tokens, fits in [(0, True), (room, True), (room + 1, False)]:
            busy = candidate("w", role, decoding=5, recompute_tokens=tokens)
            decision = decide(LOST, [busy])
            assert isinstance(decision, Decision) is fits
            assert fits or decision is Wait.THROTTLED
            assert isinstance(decide(FRESH, [busy]), Decision)


def test_one_is_always_recomputed_however_long() -> None:
    huge = RequestFacts(tokens=100_000, blocks=10, remaining=10, recompute=True)
    assert isinstance(decide(huge, [candidate("w", "mixed", decoding=5)]), Decision)


def test_nothing_is_held_back_where_no_stream_runs() -> None:
    waiting = candidate("w", "mixed", decoding=5, prefilling=5, recompute_tokens=10_000)
    assert isinstance(decide(LOST, [waiting]), Decision)


def test_prefill_workers_recompute_without_a_bound() -> None:
    decode = candidate("d", "decode", decoding=5, recompute_tokens=10_000)
    prefill = candidate("p", "prefill", prefilling=5, recompute_tokens=10_000)
    decision = decide(LOST, [decode, prefill])
    assert isinstance(decision, Decision)
    assert decision.route == "remote"


def test_another_worker_with_room_is_taken() -> None:
    full = candidate("w0", "mixed", decoding=1, recompute_tokens=RECOMPUTE_TOKENS)
    free = candidate("w1", "mixed", decoding=9)
    decision = decide(LOST, [full, free])
    assert isinstance(decision, Decision)
    assert decision.decode.node_id == "w1"


def outstanding(worker: FakeWorker, flights: list[Flight]) -> list[str]:
    """Requests that it was given to recompute and has brought no token of."""
    return [
        flight.key.request_id
        for flight in flights
        if worker.identity in flight.holders and not flight.prefilled
    ]


async def test_after_a_mass_failure_the_oldest_come_first_and_all_end(cluster: Cluster) -> None:
    survivor = await cluster.add("m0", "mixed", max_running=64)
    survivor.stop_at = 2
    running = cluster.submit(max_tokens=500)
    await until(lambda: len(running.accepted) == 2)
    victim = await cluster.add("m1", "mixed", max_running=64)
    victim.stop_at = 3
    flights = [cluster.submit(prompt_tokens=200) for _ in range(9)]
    await until(lambda: sum(len(flight.accepted) for flight in flights) >= 9)
    await until(lambda: all(len(flight.accepted) in (2, 3) for flight in flights))
    lost = [f for f in flights if victim.identity in f.holders]
    assert len(lost) >= 4
    survivor.stop_at = 0  # holds what it gets, so that the bound shows
    await victim.kill()
    await until(lambda: len(cluster.dispatcher.registry) == 1)
    assert cluster.dispatcher.queue_depth == len(lost) - 2  # two of 203 tokens fit into 512
    await until(lambda: [n for n, attempt in survivor.keys(Generate) if attempt == 1] == [
        f.key.request_id for f in lost[:2]
    ])
    assert outstanding(survivor, lost) == [f.key.request_id for f in lost[:2]]
    late = cluster.submit()
    assert cluster.dispatcher.queue_depth == len(lost) - 1  # nobody overtakes
    survivor.stop_at = None
    survivor.seen.clear()
    for flight in lost[:2]:
        survivor.run(flight.request, len(flight.accepted))
    for flight in lost:
        assert len(await read(flight)) == 6
    assert len(await read(late)) == 6
    order = [name for name, _ in survivor.keys(Generate)]
    assert order == [f.key.request_id for f in lost[2:]] + [late.key.request_id]
    throttled = [what for what, _ in cluster.counts.redispatches]
    assert throttled == ["nothing"] * 2 + ["throttled"] * (len(lost) - 2)
    for flight in (running, *flights):
        flight.cancel("enough")
    await until(lambda: ("r0", 0) in survivor.keys(Cancel))

"""Loans and migrations between real stages over real sessions; checksums; the quarantine's cap."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from fake_runner import undisturbed
from make_request import make_request
from mini_worker import MiniWorker

from baton.engine.commands import EngineLoad, loan_key
from baton.protocol.ids import Identity
from baton.protocol.records import (
    Admitted,
    Cancel,
    Declined,
    Generate,
    Lend,
    Migrate,
    Parked,
    Prefill,
    Record,
    Request,
    Reserve,
    WorkerRef,
)
from baton.protocol.tokens import pack_tokens

ROUTER = Identity("router", 1)
TRUNK = list(range(3, 31))  # seven full blocks


@pytest_asyncio.fixture
async def three() -> AsyncIterator[list[MiniWorker]]:
    workers = [await MiniWorker(name, "mixed", 64).start() for name in "abc"]
    yield workers
    for worker in workers:
        await worker.stop()


def told(worker: MiniWorker, kind: type[Record]) -> list[Any]:
    return [record for record in worker.links.records if isinstance(record, kind)]


def give(worker: MiniWorker, record: Record) -> None:
    worker.worker.on_record(ROUTER, record)


def largest_step(worker: MiniWorker) -> int:
    return max(sum(sizes) for sizes in worker.runner.sizes)


async def all_clean(workers: list[MiniWorker]) -> None:
    for worker in workers:
        await worker.until(worker.is_clean, f"{worker.identity.node_id} holds nothing")


async def warm(worker: MiniWorker, name: str = "first") -> None:
    """It has the KV of TRUNK in its cache afterwards."""
    give(worker, Generate(request=make_request(name, TRUNK, max_tokens=2)))
    await worker.until(lambda: len(worker.links.tokens(name)) == 2, "a first request")
    worker.runner.sizes.clear()


# -- loans -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lend_first", [True, False])
async def test_a_loan_spares_the_borrower_the_prompt(
    three: list[MiniWorker], lend_first: bool
) -> None:
    a, b, _ = three
    await warm(a)
    prompt = [*TRUNK, 40, 41, 42]
    request = make_request("next", prompt, max_tokens=5)
    orders = [(a, Lend(request=request, borrower=b.ref)),
              (b, Generate(request=request, lender=a.ref))]
    for worker, record in orders if lend_first else reversed(orders):
        give(worker, record)
    await b.until(lambda: len(b.links.tokens("next")) == 5, "five tokens")
    assert b.links.tokens("next") == undisturbed(prompt, 5)
    assert b.links.deltas[0].cached_tokens == 28
    assert largest_step(b) == 3, "only what nobody had was computed"
    assert not a.links.records
    await all_clean([a, b])


async def test_the_decode_worker_lends_to_the_prefill_worker_of_the_same_request(
    three: list[MiniWorker]
) -> None:
    d, p, _ = three
    await warm(d)
    prompt = [*TRUNK, *range(50, 60)]
    request = make_request("turn", prompt, max_tokens=6)
    give(d, Reserve(request=request, prefill=p.ref))
    give(d, Lend(request=request, borrower=p.ref))
    give(p, Prefill(request=request, decode=d.ref, lender=d.ref))
    await d.until(lambda: len(d.links.tokens("turn")) == 5, "five tokens from the decode worker")
    assert p.links.tokens("turn") + d.links.tokens("turn") == undisturbed(prompt, 6)
    assert p.links.deltas[0].cached_tokens == 28
    assert largest_step(p) <= 10
    await all_clean([d, p])


async def test_a_lender_with_less_gives_what_it_has(three: list[MiniWorker]) -> None:
    a, b, _ = three
    await warm(a)
    prompt = [*TRUNK[:12], *range(60, 80)]
    request = make_request("other", prompt, max_tokens=3)
    give(a, Lend(request=request, borrower=b.ref))
    give(b, Generate(request=request, lender=a.ref))
    await b.until(lambda: len(b.links.tokens("other")) == 3, "three tokens")
    assert b.links.tokens("other") == undisturbed(prompt, 3)
    assert b.links.deltas[0].cached_tokens == 12
    await all_clean([a, b])


@pytest.mark.parametrize("why", ["nothing cached", "never asked to lend", "nowhere to be found"])
async def test_a_loan_that_fails_costs_the_request_nothing(
    three: list[MiniWorker], why: str
) -> None:
    a, b, _ = three
    request = make_request("r", TRUNK, max_tokens=4)
    lender = a.ref
    if why == "nothing cached":
        give(a, Lend(request=request, borrower=b.ref))
    elif why == "nowhere to be found":
        lender = WorkerRef(Identity("gone", 4), "tcp://127.0.0.1:9")
    give(b, Generate(request=request, lender=lender))
    await b.until(lambda: len(b.links.tokens("r")) == 4, "four tokens all the same")
    assert b.links.tokens("r") == undisturbed(TRUNK, 4)
    assert not told(b, Declined)
    await all_clean([a, b])


async def test_a_lender_that_dies_costs_the_request_nothing(three: list[MiniWorker]) -> None:
    _, b, _ = three
    doomed = await MiniWorker("doomed", "mixed", 64).start()
    await warm(doomed)
    request = make_request("r", [*TRUNK, 9], max_tokens=4)
    doomed.outgoing.reach(b.ref)
    await b.until(lambda: b.incoming.is_connected(doomed.identity), "a session")
    give(b, Generate(request=request, lender=doomed.ref))
    await doomed.stop()
    await b.until(lambda: len(b.links.tokens("r")) == 4, "four tokens all the same")
    assert b.links.tokens("r") == undisturbed([*TRUNK, 9], 4)


async def test_a_request_cancelled_while_it_borrows_never_starts(three: list[MiniWorker]) -> None:
    a, b, _ = three
    request = make_request("r", TRUNK, max_tokens=4)
    give(b, Generate(request=request, lender=a.ref))
    assert loan_key(request.key) in b.worker.decode._live
    give(b, Cancel(key=request.key, reason="client left"))
    await b.until(lambda: not b.worker.decode._live, "the loan is over")
    give(b, Generate(request=make_request("later", [1, 2, 3], max_tokens=1)))
    await b.until(lambda: b.links.tokens("later"), "what came after it")
    await all_clean([a, b])
    assert b.runner.sizes == [[3]], "nothing but the later one was computed"
    assert not b.links.tokens("r")


async def test_a_hand_off_that_ends_while_its_prefill_borrows_holds_nothing(
    three: list[MiniWorker]
) -> None:
    """The receiver is lost, not the request cancelled: nobody would come to release it."""
    a, b, c = three
    request = make_request("r", TRUNK, max_tokens=4)
    give(b, Prefill(request=request, decode=c.ref, lender=a.ref))
    assert loan_key(request.key) in b.worker.decode._live
    b.worker.prefill.on_peer_lost(c.identity)
    assert told(b, Declined)
    await b.until(lambda: not b.worker.decode._live, "the loan is over")
    await all_clean([a, b, c])
    assert not b.runner.sizes
    assert not b.links.deltas


# -- migration -------------------------------------------------------------------------------


def moved(request: Request, tokens: list[int]) -> Request:
    """What the next decode worker is asked for: all tokens but the last, which the seal brings."""
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return Request(**{**fields, "accepted": pack_tokens(tokens[:-1])})


class Gate:
    """Lets a worker's steps through one by one."""

    def __init__(self, worker: MiniWorker) -> None:
        self._permits = threading.Semaphore(0)
        self.worker = worker
        worker.runner.before_step = lambda items: self._wait()

    def _wait(self) -> None:
        assert self._permits.acquire(timeout=60), "the test forgot a gate"

    def open(self, steps: int = 100_000) -> None:
        self._permits.release(steps)

    async def tokens(self, count: int) -> None:
        """Steps until it has told so many tokens more."""
        told = len(self.worker.links.deltas)
        for number in range(1, count + 1):
            self.open(1)
            await self.worker.until(
                lambda number=number: len(self.worker.links.deltas) == told + number, "a token")


async def park(source: Gate, target: MiniWorker, request: Request) -> None:
    """While a step is held up; the word about it comes after that step's token."""
    worker = source.worker
    before = len(told(worker, Parked))
    give(worker, Migrate(key=request.key, decode=target.ref))
    source.open()
    await worker.until(lambda: len(told(worker, Parked)) > before, "a word about parking")
    assert told(worker, Parked)[-1].parked


def all_tokens(workers: list[MiniWorker]) -> list[int]:
    """Checks that each position was told once."""
    deltas = sorted((d.position, d.tokens) for w in workers for d in w.links.deltas if d.tokens)
    assert [position for position, _ in deltas] == list(range(len(deltas)))
    return [token for _, tokens in deltas for token in tokens]


async def test_a_running_request_moves_with_no_token_lost_or_repeated(
    three: list[MiniWorker]
) -> None:
    a, b, _ = three
    request = make_request("r", TRUNK, max_tokens=60)
    gate = Gate(a)
    give(a, Generate(request=request))
    gate.open(3)  # of the prompt's four chunks
    await gate.tokens(5)
    await park(gate, b, request)
    before = a.links.tokens("r")
    give(b, Reserve(request=moved(request, before), prefill=a.ref))
    await b.until(lambda: b.links.deltas and b.links.deltas[-1].finish_reason, "its end")
    assert a.links.tokens("r") == before, "nothing was told after the word that it is parked"
    assert len(before) < 60
    assert all_tokens([a, b]) == undisturbed(TRUNK, 60)
    assert told(b, Admitted)
    assert largest_step(b) == 1, "nothing was computed again"
    await all_clean([a, b])


async def test_it_moves_on_and_back_again(three: list[MiniWorker]) -> None:
    request = make_request("r", TRUNK, max_tokens=100)
    here = three[0]
    gate = Gate(here)
    give(here, Generate(request=request))
    gate.open(3)
    for target in (three[1], three[2], three[0], three[1]):
        await gate.tokens(3)
        await park(gate, target, request)
        gate = Gate(target)
        tokens = all_tokens(three)
        give(target, Reserve(request=moved(request, tokens), prefill=here.ref))
        here = target
    gate.open()
    await here.until(lambda: here.links.deltas[-1].finish_reason, "its end")
    assert all_tokens(three) == undisturbed(TRUNK, 100)
    await all_clean(three)


async def test_what_does_not_decode_stays(three: list[MiniWorker]) -> None:
    a, b, _ = three
    request = make_request("never", TRUNK)
    a.links.own(request.key, ROUTER)
    give(a, Migrate(key=request.key, decode=b.ref))
    await a.until(lambda: told(a, Parked), "an answer")
    assert not told(a, Parked)[0].parked
    assert request.key in a.links.owned
    await all_clean([a, b])


async def test_a_parked_request_whose_next_worker_is_nowhere_is_routed_again(
    three: list[MiniWorker]
) -> None:
    a, _, _ = three
    request = make_request("r", TRUNK, max_tokens=200)
    gate = Gate(a)
    give(a, Generate(request=request))
    gate.open(3)
    await gate.tokens(2)
    a.worker.prefill._lease = 0.3
    nowhere = WorkerRef(Identity("gone", 4), "tcp://127.0.0.1:9")
    give(a, Migrate(key=request.key, decode=nowhere))
    gate.open()
    await a.until(lambda: told(a, Declined), "it is given back")
    assert request.key not in a.links.owned
    await all_clean([a])


# -- checksums -------------------------------------------------------------------------------


@pytest.mark.parametrize("corrupt", [False, True])
async def test_a_byte_that_changed_on_the_way_is_noticed(corrupt: bool) -> None:
    p = await MiniWorker("p", "prefill", 64, kv_checksum=True).start()
    d = await MiniWorker("d", "decode", 64).start()
    if corrupt:
        mover = d.mover
        right = mover.receive

        def tampered(blocks: Any, tag: int, scheme: Any, on_done: Any) -> Any:
            def done(error: Exception | None) -> None:
                d.memory[blocks[0]].view("u1")[3] ^= 16
                on_done(error)

            return right(blocks, tag, scheme, done)

        mover.receive = tampered  # type: ignore[method-assign]
    request = make_request("r", TRUNK, max_tokens=5)
    give(p, Prefill(request=request, decode=d.ref))
    give(d, Reserve(request=request, prefill=p.ref))
    if corrupt:
        await d.until(lambda: told(d, Declined), "it is routed again")
        assert told(d, Declined)[0].reason == "corrupt"
        d.metrics.receive_ended("request", "busy", 0, {})  # so that there is something to take
        samples = d.metrics.take()
        assert samples is not None
        counted = {labels["reason"]: value for _, name, labels, value in samples.samples
                   if name == "baton_kv_transfer_failures_total"}
        assert counted == {"corrupt": 1.0, "busy": 1.0}
    else:
        await d.until(lambda: len(d.links.tokens("r")) == 4, "four more tokens")
        assert p.links.tokens("r") + d.links.tokens("r") == undisturbed(TRUNK, 5)
    await all_clean([p, d])
    for worker in (p, d):
        await worker.stop()


# -- the cap on quarantine -------------------------------------------------------------------


async def test_over_the_cap_a_worker_takes_nothing_new_finishes_and_ends(
    three: list[MiniWorker]
) -> None:
    a, _, _ = three
    worker = a.worker
    ended: list[str] = []
    worker._on_stuck = ended.append
    worker._quarantine_seconds = 1000.0
    gate = Gate(a)
    give(a, Generate(request=make_request("runs", TRUNK, max_tokens=30)))
    gate.open(3)
    await gate.tokens(2)
    right = worker._load

    def load() -> tuple[EngineLoad, float]:
        load, age = right()
        blocks = load.blocks
        fields = {name: getattr(blocks, name) for name in blocks.__struct_fields__}
        counts = type(blocks)(**{**fields, "quarantined": 8, "free": blocks.free - 8})
        return replace(load, blocks=counts), age

    worker._load = load
    await a.until(lambda: worker._over_cap_since, "it is over the cap")
    assert not worker.draining, "which may be a burst"
    worker._quarantine_seconds = 0.0
    await a.until(lambda: worker.draining, "it drains")
    give(a, Generate(request=make_request("new", TRUNK)))
    assert told(a, Declined)[0].reason == "draining"
    assert not ended, "something runs"
    gate.open()
    await a.until(lambda: ended, "the end")
    assert len(a.links.tokens("runs")) == 30, "what ran has finished"
    assert ended[0] == "8 of 64 blocks are quarantined"
    worker._load = right
    await a.until(lambda: not worker.draining, "back under the cap it goes on")

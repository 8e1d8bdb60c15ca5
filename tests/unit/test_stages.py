"""Both stages over real sessions: what one computes, the other goes on from."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fake_runner import undisturbed
from make_request import make_request
from mini_worker import MiniWorker

from baton.protocol.ids import Identity
from baton.protocol.records import (
    Admitted,
    Cancel,
    Declined,
    Generate,
    Prefill,
    Request,
    Reserve,
    WorkerRef,
)

ROUTER = Identity("router", 1)


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[tuple[MiniWorker, MiniWorker]]:
    p = await MiniWorker("p", "prefill", 64).start()
    d = await MiniWorker("d", "decode", 64).start()
    yield p, d
    await p.stop()
    await d.stop()


def send(p: MiniWorker, d: MiniWorker, request: Request, order: str = "pd") -> None:
    for side in order:
        if side == "p":
            p.worker.on_record(ROUTER, Prefill(request=request, decode=d.ref))
        else:
            d.worker.on_record(ROUTER, Reserve(request=request, prefill=p.ref))


async def clean(*workers: MiniWorker) -> None:
    for worker in workers:
        await worker.until(worker.is_clean, f"{worker.identity.node_id} holds nothing")


PROMPT = list(range(3, 33))  # seven full blocks and a half, four chunks


@pytest.mark.parametrize("order", ["pd", "dp"])
async def test_first_token_from_one_the_rest_from_the_other(
    pair: tuple[MiniWorker, MiniWorker], order: str
) -> None:
    p, d = pair
    send(p, d, make_request("r", PROMPT, max_tokens=9), order)
    await d.until(lambda: len(d.links.tokens("r")) == 8, "eight tokens from the decode worker")
    assert p.links.tokens("r") + d.links.tokens("r") == undisturbed(PROMPT, 9)
    assert d.links.deltas[0].position == 1
    assert d.links.deltas[-1].finish_reason == "length"
    assert any(isinstance(record, Admitted) for record in d.links.records)
    await clean(p, d)
    assert p.transport.bytes_sent()["inproc"] == 8 * 4 * 8


async def test_a_reserve_that_comes_again_while_the_request_runs_changes_nothing(
    pair: tuple[MiniWorker, MiniWorker],
) -> None:
    p, d = pair
    goes_on = threading.Event()

    def stand_still(items: object) -> None:
        if len(d.runner.sizes) > 2:
            assert goes_on.wait(60), "the test forgot the gate"

    d.runner.before_step = stand_still
    request = make_request("r", PROMPT, max_tokens=60)
    send(p, d, request)
    await d.until(lambda: len(d.links.tokens("r")) > 1, "it decodes")
    d.worker.on_record(ROUTER, Reserve(request=request, prefill=p.ref))
    goes_on.set()
    await d.until(lambda: len(d.links.tokens("r")) == 59, "the rest of its tokens")
    assert p.links.tokens("r") + d.links.tokens("r") == undisturbed(PROMPT, 60)
    assert not any(isinstance(record, Declined) for record in (*p.links.records, *d.links.records))
    await clean(p, d)


async def test_only_what_the_receiver_lacks_travels(pair: tuple[MiniWorker, MiniWorker]) -> None:
    p, d = pair
    send(p, d, make_request("one", PROMPT))
    await d.until(lambda: len(d.links.tokens("one")) == 3, "the first request")
    await clean(p, d)
    before = p.transport.bytes_sent()["inproc"]
    longer = PROMPT[:28] + list(range(100, 108))
    send(p, d, make_request("two", longer))
    await d.until(lambda: len(d.links.tokens("two")) == 3, "the second request")
    assert p.links.tokens("two") + d.links.tokens("two") == undisturbed(longer, 4)
    assert p.transport.bytes_sent()["inproc"] - before == 2 * 4 * 8, "seven of nine were there"
    await clean(p, d)


async def test_a_first_token_that_ends_the_request_frees_both(
    pair: tuple[MiniWorker, MiniWorker]
) -> None:
    p, d = pair
    send(p, d, make_request("r", PROMPT, max_tokens=1))
    await p.until(lambda: p.links.deltas, "the only token")
    assert p.links.deltas[-1].finish_reason == "length"
    await clean(p, d)
    assert d.links.records == []


async def test_a_receiver_without_room_declines_and_a_cancel_frees_the_sender(
    pair: tuple[MiniWorker, MiniWorker]
) -> None:
    p, _ = pair
    small = await MiniWorker("small", "decode", 4).start()
    request = make_request("r", PROMPT)
    send(p, small, request)
    await small.until(lambda: small.links.records, "an answer")
    declined = small.links.records[0]
    assert isinstance(declined, Declined)
    p.worker.on_record(ROUTER, Cancel(key=request.key, reason="declined"))
    await clean(p, small)
    await small.stop()


async def test_generate_runs_here_from_the_start(pair: tuple[MiniWorker, MiniWorker]) -> None:
    _, d = pair
    d.worker.on_record(ROUTER, Generate(request=make_request("r", PROMPT, max_tokens=5)))
    await d.until(lambda: len(d.links.tokens("r")) == 5, "five tokens")
    assert d.links.tokens("r") == undisturbed(PROMPT, 5)
    await clean(d)


async def test_a_lone_reserve_and_a_lone_prefill_end_by_themselves(
    pair: tuple[MiniWorker, MiniWorker]
) -> None:
    p, d = pair
    impatient = make_request("x", PROMPT)
    short = impatient.deadlines.__class__(handoff=0.3)
    for side in "pd":
        request = Request(
            key=make_request(f"lone-{side}", PROMPT).key, choice=0, prompt=impatient.prompt,
            sampling=impatient.sampling, deadlines=short)
        send(p, d, request, side)
    await d.until(lambda: any(isinstance(r, Declined) for r in d.links.records), "a reserve ends")
    await clean(d)


async def test_a_receiver_that_never_answers_is_dialled_no_longer(
    pair: tuple[MiniWorker, MiniWorker]
) -> None:
    p, _ = pair
    base = make_request("r", PROMPT)
    request = Request(
        key=base.key, choice=0, prompt=base.prompt, sampling=base.sampling,
        deadlines=base.deadlines.__class__(handoff=0.3))
    gone = WorkerRef(Identity("gone", 5), "tcp://127.0.0.1:9")
    p.worker.on_record(ROUTER, Prefill(request=request, decode=gone))
    await p.until(lambda: any(isinstance(r, Declined) for r in p.links.records), "given up")
    await clean(p)
    await p.until(lambda: p.outgoing.get(gone.identity) is None, "the channel is dropped")


async def test_cancelled_at_any_moment_nothing_stays(pair: tuple[MiniWorker, MiniWorker]) -> None:
    p, d = pair
    rng = random.Random(4)
    kept = []
    for number in range(60):
        prompt = [rng.randrange(100) for _ in range(rng.randrange(1, 40))]
        request = make_request(f"r{number}", prompt, max_tokens=6)
        await p.until(lambda: len(p.links.owned | d.links.owned) < 6, "fewer than six at once")
        send(p, d, request, rng.choice(["pd", "dp"]))
        if number % 3:
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            for worker in (p, d):
                worker.worker.on_record(ROUTER, Cancel(key=request.key, reason="client left"))
        else:
            kept.append((request.key.request_id, prompt))
    await clean(p, d)

    def refused(name: str) -> bool:
        return any(
            isinstance(r, Declined) and r.key.request_id == name
            for r in p.links.records + d.links.records)

    def tokens(name: str) -> list[int]:
        return p.links.tokens(name) + d.links.tokens(name)

    # What engines have told may still be on its way through the loop.
    await d.until(
        lambda: all(refused(name) or len(tokens(name)) >= 6 for name, _ in kept), "all answers")
    for name, prompt in kept:
        assert refused(name) or tokens(name) == undisturbed(prompt, 6), name


async def test_a_sender_that_vanishes_is_reported_and_leaves_nothing(
    pair: tuple[MiniWorker, MiniWorker]
) -> None:
    _, d = pair
    p = await MiniWorker("doomed", "prefill", 64).start()
    request = make_request("r", PROMPT)
    d.worker.on_record(ROUTER, Reserve(request=request, prefill=p.ref))
    p.outgoing.reach(d.ref)
    await d.until(lambda: d.incoming.is_connected(p.identity), "a session")
    await d.until(lambda: d.engine.load()[0].blocks.held, "a reservation")
    await p.stop()
    await d.until(lambda: any(isinstance(r, Declined) for r in d.links.records), "a word of it")
    assert not d.links.owned

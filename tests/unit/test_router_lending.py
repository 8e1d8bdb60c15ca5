"""Who is remembered to hold what, and who is told to lend it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest
from scripted_workers import LAYOUT, Cluster, FakeWorker, serving, until

from baton.protocol.curves import LinkCurve, StepCurve
from baton.protocol.hashing import Chain, chain_hashes, root_hash
from baton.protocol.ids import Identity
from baton.protocol.records import Cancel, Generate, Lend, Prefill, Reserve
from baton.protocol.tokens import pack_tokens
from baton.router.candidates import Candidate, RequestFacts
from baton.router.flight import Flight
from baton.router.loans import MIN_LOAN_BLOCKS, Lender, best_loan
from baton.router.policy import Decision, decide
from baton.router.speed import WorkerModel

A, B = Identity("a", 1), Identity("b", 1)
BLOCK = LAYOUT.block_size


# -- chains --------------------------------------------------------------------------------------


def test_a_chain_grows_with_its_tokens() -> None:
    tokens = list(range(1000, 1050))
    chain = Chain(root_hash("salt"))
    chain.extend(pack_tokens(tokens[:15]), 16)
    assert chain.hashes == []
    for end in (16, 20, 47, 48, 50):
        chain.extend(pack_tokens(tokens[:end]), 16)
        assert chain.hashes == chain_hashes(root_hash("salt"), tokens[:end], 16)
    other = Chain(root_hash("other"))
    other.extend(pack_tokens(tokens), 16)
    assert not set(other.hashes) & set(chain.hashes)


# -- policy --------------------------------------------------------------------------------------


def candidate(name: str, role: str, **values: float) -> Candidate:
    return Candidate(
        Identity(name, 1), role, 8, int(values.get("decoding", 0)), 0, 100,
        model=WorkerModel(**values),  # type: ignore[arg-type]
    )


def test_among_equals_the_one_that_has_more_decodes_and_prefills() -> None:
    names = [f"{role}-{n}" for role in ("prefill", "decode") for n in range(3)]
    facts = RequestFacts(
        tokens=300, blocks=20, remaining=10,
        held={Identity(name, 1): 9 for name in names if name.endswith("1")},
    )
    decision = decide(facts, [candidate(name, name.partition("-")[0]) for name in names])
    assert isinstance(decision, Decision)
    assert decision.prefill == Identity("prefill-1", 1)
    assert decision.decode == Identity("decode-1", 1)
    busy = [
        candidate(
            name, name.partition("-")[0],
            **({"decoding": 1, "queued": 1.0} if name.endswith("1") else {}),
        )
        for name in names
    ]
    decision = decide(facts, busy)
    assert isinstance(decision, Decision)
    assert decision.decode != Identity("decode-1", 1)
    assert decision.prefill != Identity("prefill-1", 1)


def loan_of(own: int, *lenders: Lender, model: WorkerModel | None = None) -> Identity | None:
    model = model or WorkerModel()
    alone, _ = model.prefill(1000, own * 16)
    loan = best_loan(lenders, Identity("me", 1), model, own, 1000, 16, 1000, alone)
    return None if loan is None else loan.lender


def test_while_nothing_is_measured_a_loan_has_to_be_of_some_blocks() -> None:
    most = MIN_LOAN_BLOCKS
    assert loan_of(0) is None
    assert loan_of(0, Lender(A, most - 1)) is None
    assert loan_of(0, Lender(A, most), Lender(B, 3)) == A
    assert loan_of(5, Lender(A, most), Lender(B, most + 5)) == B
    assert loan_of(6, Lender(A, most + 5)) is None
    assert loan_of(0, Lender(Identity("me", 1), 99)) is None


def test_a_loan_has_to_be_faster_than_computing() -> None:
    """A token of a millisecond has a kilobyte: at a megabyte per second it is as fast."""
    curve = StepCurve(
        base=0.0, chunk=0.0, token=1e-3, pair=0.0, decode=0.0, context=0.0, spread=0.1, steps=9
    )
    model = WorkerModel(curve)

    def lender(identity: Identity, blocks: int, rate: float) -> Lender:
        link = LinkCurve(latency=0.001, byte=1 / rate, spread=0.1, transfers=9)
        return Lender(identity, blocks, {"me": link})

    assert loan_of(0, lender(A, 2, 2e6), model=model) == A
    assert loan_of(0, lender(A, 60, 0.9e6), model=model) is None
    assert loan_of(0, lender(A, 60, 1.5e6), lender(B, 50, 3e6), model=model) == B
    assert loan_of(0, lender(A, 60, 1.5e6), lender(B, 10, 3e6), model=model) == A


# -- requests ------------------------------------------------------------------------------------


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with serving() as made:
        yield made


FIRST = list(range(200, 200 + 4 * BLOCK))
"""A prompt of four blocks."""
OUTPUT = 6 * BLOCK
SECOND = [*FIRST, *(100 + position for position in range(OUTPUT)), *range(7, 7 + BLOCK)]
"""And what follows on it in the next turn: the decode worker has nine full blocks of it, for the
last token of the answer was never computed."""


async def tokens_of(flight: Flight) -> list[int]:
    return [token async for delta in flight.events() for token in delta.tokens]


async def conversation(cluster: Cluster) -> Flight:
    """The first turn, and the second one under way."""
    await tokens_of(cluster.submit(OUTPUT, FIRST))
    assert cluster.counts.lenders == 0
    return cluster.submit(4, SECOND)


def loans(worker: FakeWorker) -> list[tuple[str, Identity]]:
    return [(record.request.key.request_id, record.borrower.identity)
            for record in worker.seen if isinstance(record, Lend)]


def lenders(worker: FakeWorker, kind: type[Prefill | Generate]) -> list[Identity | None]:
    return [record.lender and record.lender.identity
            for record in worker.seen if isinstance(record, kind)]


async def test_the_next_turn_is_lent_by_the_worker_that_decoded_the_last(
    cluster: Cluster,
) -> None:
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    flight = await conversation(cluster)
    assert await tokens_of(flight) == [100, 101, 102, 103]
    assert loans(decode) == [("r1", prefill.identity)]
    assert lenders(prefill, Prefill) == [None, decode.identity]
    assert len(decode.keys(Reserve)) == 2
    assert cluster.counts.lenders == 1
    assert decode.keys(Cancel) == []


async def test_it_goes_back_to_the_same_decode_worker_when_others_are_as_good(
    cluster: Cluster,
) -> None:
    await cluster.add("p0", "prefill")
    workers = [await cluster.add(f"d{n}", "decode") for n in range(3)]
    await tokens_of(await conversation(cluster))
    assert sorted(len(worker.keys(Reserve)) for worker in workers) == [0, 0, 2]


async def test_a_local_request_borrows_too(cluster: Cluster) -> None:
    first = await cluster.add("m0", "mixed")
    await tokens_of(cluster.submit(OUTPUT, FIRST))
    second = await cluster.add("m1", "mixed")
    cluster.dispatcher.drain("m0")
    await tokens_of(cluster.submit(4, SECOND))
    assert lenders(second, Generate) == [first.identity]
    assert loans(first) == [("r1", second.identity)]


async def test_whoever_has_it_already_borrows_nothing(cluster: Cluster) -> None:
    worker = await cluster.add("m0", "mixed")
    await cluster.add("m1", "mixed", max_running=1)
    await tokens_of(cluster.submit(OUTPUT, FIRST))
    cluster.dispatcher.drain("m1")
    await tokens_of(cluster.submit(4, SECOND))
    assert lenders(worker, Generate) == [None, None]
    assert cluster.counts.lenders == 0


async def test_another_salt_shares_nothing(cluster: Cluster) -> None:
    await cluster.add("p0", "prefill")
    await cluster.add("d0", "decode")
    await tokens_of(cluster.submit(OUTPUT, FIRST))
    request = cluster.submit(4, SECOND[:1]).request
    salted = msgspec.structs.replace(
        request, key=msgspec.structs.replace(request.key, request_id="salted"),
        prompt=pack_tokens(SECOND), cache_salt="tenant",
    )
    await tokens_of(cluster.dispatcher.submit(salted))
    assert cluster.counts.lenders == 0


@pytest.mark.parametrize("old", ["lender", "borrower"])
async def test_older_workers_neither_lend_nor_borrow(cluster: Cluster, old: str) -> None:
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    await tokens_of(cluster.submit(OUTPUT, FIRST))
    named = decode if old == "lender" else prefill
    worker = cluster.dispatcher.registry.get(named.identity)
    assert worker is not None
    worker.session.speaks = lambda kind: kind is not Lend  # type: ignore[method-assign]
    await tokens_of(cluster.submit(4, SECOND))
    assert lenders(prefill, Prefill) == [None, None]
    assert loans(decode) == []


async def test_a_lender_that_died_is_not_named(cluster: Cluster) -> None:
    prefill, decode = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    await tokens_of(cluster.submit(OUTPUT, FIRST))
    await decode.kill()
    await until(lambda: cluster.counts.gone == ["d0"])
    await cluster.add("d1", "decode")
    assert await tokens_of(cluster.submit(4, SECOND)) == [100, 101, 102, 103]
    assert lenders(prefill, Prefill) == [None, None]


async def test_a_loan_is_called_off_with_its_request(cluster: Cluster) -> None:
    prefill, first = await cluster.add("p0", "prefill"), await cluster.add("d0", "decode")
    await tokens_of(cluster.submit(OUTPUT, FIRST))
    await cluster.add("d1", "decode")
    cluster.dispatcher.drain("d0")  # it still lends
    prefill.stop_at = 0
    flight = cluster.submit(4, SECOND)
    await until(lambda: loans(first) == [("r1", prefill.identity)])
    flight.cancel("client gone")
    await until(lambda: first.keys(Cancel) == [("r1", 0)])


async def test_a_request_that_wants_prompt_logprobs_computes_all_of_it(cluster: Cluster) -> None:
    prefill = await cluster.add("p0", "prefill")
    await cluster.add("d0", "decode")
    await tokens_of(cluster.submit(OUTPUT, FIRST))
    request = cluster.submit(4, SECOND[:1]).request
    scored = msgspec.structs.replace(
        request, key=msgspec.structs.replace(request.key, request_id="scored"),
        prompt=pack_tokens(SECOND),
        sampling=msgspec.structs.replace(request.sampling, prompt_logprobs=1),
    )
    await tokens_of(cluster.dispatcher.submit(scored))
    assert lenders(prefill, Prefill) == [None] * 3

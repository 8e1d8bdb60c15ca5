"""What the policy sees of a worker is kept until something changes, and no longer."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from baton.protocol.curves import StepCurve
from baton.protocol.errors import BatonError
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.kvlayout import KVLayout
from baton.protocol.link import Session
from baton.protocol.records import (
    BlockCounts,
    Curves,
    Load,
    ModelCard,
    Request,
    Targets,
    WorkerHello,
)
from baton.protocol.sampling import SamplingParams
from baton.protocol.tokens import pack_tokens
from baton.router.candidates import PATIENT
from baton.router.flight import Flight
from baton.router.registry import Registry, Worker
from baton.router.speed import COUNTING

LAYOUT = KVLayout(2, 2, 8, 16, "float32")
CURVE = StepCurve(
    base=5e-3, chunk=2e-3, token=1e-4, pair=0.0, decode=1e-4, context=0.0, spread=0.1, steps=99
)


def make_flight(number: int) -> Flight:
    request = Request(
        key=RequestKey(f"r{number}", 0), choice=0, prompt=pack_tokens(range(100)),
        sampling=SamplingParams(seed=1, max_tokens=9),
    )
    return Flight(request, number, 0.0, lambda flight, outcome, reason: None)


def make_worker(**limits: int) -> tuple[Registry, Worker]:
    hello = WorkerHello(
        identity=Identity("w", 1), pid=1, host="h", role="mixed", layout=LAYOUT, num_blocks=100,
        model=ModelCard(fingerprint="f", name="n", max_model_len=99, vocab_size=9, dtype="d"),
        max_running=4, peer_address="p", device="cpu", **limits,
    )
    registry = Registry()
    session = Session(1, 2, hello, now=0.0, notify=lambda: None)
    return registry, registry.add(hello, session, 0.0)


OLD, NEW = make_flight(1), make_flight(2)
LOAD = Load(
    role="decode", state="ready", waiting=0, running=1, handoffs=0, waiting_tokens=33,
    blocks=BlockCounts(free=40, cached=5, active=55, held=0, quarantined=0),
    step_age=0.0, steps=1, preemptions=0,
)
CHANGES: dict[str, Callable[[Worker], None]] = {
    "hear": lambda w: w.hear(LOAD, 1.0),
    "hold_decode": lambda w: w.hold_decode(NEW),
    "hold_prefill": lambda w: w.hold_prefill(NEW, 100),
    "end_decode": lambda w: w.end_decode(OLD),
    "end_prefill": lambda w: w.end_prefill(OLD),
    "promise": lambda w: w.promise(NEW, 50),
    "break_promise": lambda w: w.break_promise(OLD),
    "forget": lambda w: w.forget(OLD),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_shows_at_once(change: Callable[[Worker], None]) -> None:
    registry, worker = make_worker()
    worker.hear(LOAD, 0.0)
    worker.hold_decode(OLD)
    worker.hold_prefill(OLD, 100)
    worker.promise(OLD, 7)
    [before] = registry.candidates()
    assert registry.candidates()[0] is before
    change(worker)
    [after] = registry.candidates()
    assert after == worker._as_candidate(LAYOUT, COUNTING)
    assert after is not before


@pytest.mark.parametrize(
    ("limits", "chunk"),
    [
        ({}, 512),  # a worker of the version before does not say
        ({"prefill_chunk": 64}, 64),
        ({"prefill_chunk": 1024, "max_batch_tokens": 8192}, 1024),
        ({"prefill_chunk": 1024, "max_batch_tokens": 256}, 256),
    ],
)
def test_prompts_are_expected_in_the_chunks_that_a_worker_takes(
    limits: dict[str, int], chunk: int
) -> None:
    registry, worker = make_worker(**limits)
    worker.learn(Curves(step=CURVE))
    [candidate] = registry.candidates()
    assert candidate.model.chunk == chunk
    steps = -(-4096 // chunk)
    expected = steps * (CURVE.base + CURVE.chunk) + 4096 * CURVE.token
    assert candidate.model.prefill(4096, 0)[0] == pytest.approx(expected)


@pytest.mark.parametrize("limits", [{"prefill_chunk": 0}, {"max_batch_tokens": -1}])
def test_a_worker_whose_steps_have_no_room_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(BatonError, match="worker w has no room for prompts in its steps"):
        make_worker(**limits)


def due_in(seconds: float | None, number: int = 3) -> Flight:
    flight = make_flight(number)
    request = msgspec.structs.replace(flight.request, targets=Targets(ttft=seconds))
    return Flight(request, number, 0.0, lambda flight, outcome, reason: None)


@pytest.mark.parametrize(("due", "gives_way"), [(60.0, True), (PATIENT, False), (None, False)])
def test_what_is_urgent_does_not_queue_behind_what_gives_way_to_it(
    due: float | None, gives_way: bool
) -> None:
    registry, worker = make_worker()
    worker.learn(Curves(step=CURVE))
    worker.hold_prefill(due_in(due, 3), 5000, 2.0, 0.0)
    worker.hold_prefill(due_in(due, 4), 5000, 3.0, 0.0)
    [everyone], [urgent] = registry.candidates(), registry.candidates(urgent=True)
    step = everyone.model.chunk_step
    assert everyone.model.queue(0.0) == pytest.approx(5.0)
    assert everyone.model.has_enough(0.0, 0.1)
    assert urgent.model.queue(0.0) == pytest.approx(step / 2 if gives_way else 5.0)
    assert urgent.model.has_enough(0.0, 0.1) is not gives_way
    worker.hold_prefill(due_in(0.3, 5), 1000, 0.2, 0.0)
    [urgent] = registry.candidates(urgent=True)
    assert urgent.model.queue(0.0) == pytest.approx(0.2 if gives_way else 5.2)
    assert urgent.model.pressure == registry.candidates()[0].model.pressure > 0
    for flight in list(worker.prefilling):
        worker.forget(flight)
    assert registry.candidates(urgent=True) == registry.candidates()


def test_patient_prompts_cost_those_to_come_nothing() -> None:
    registry, worker = make_worker()
    worker.learn(Curves(step=CURVE))
    worker.hold_prefill(due_in(60.0), 5000, 2.0, 0.0)
    [candidate] = registry.candidates()
    assert candidate.model.pressure == 0.0
    worker.hold_prefill(due_in(0.3, 5), 500, 0.2, 0.0)
    [candidate] = registry.candidates()
    assert 0.0 < candidate.model.pressure < 0.3

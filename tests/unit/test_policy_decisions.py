"""Where requests go, with plain values."""

from __future__ import annotations

import pytest

from baton.protocol.ids import Identity
from baton.router.candidates import Candidate, RequestFacts
from baton.router.policy import Decision, Wait, decide
from baton.router.speed import COUNTING, WorkerModel

FACTS = RequestFacts(tokens=100, blocks=7, remaining=64)


def worker(name: str, role: str, **values: int) -> Candidate:
    """One that has said nothing of its speed. `tokens`: of prompts that it has to compute."""
    numbers = {
        "max_running": 4, "decoding": 0, "prefilling": 0, "available_blocks": 100, **values,
    }
    model = WorkerModel(
        decoding=numbers["decoding"], queued=COUNTING.token * numbers.pop("tokens", 0)
    )
    return Candidate(identity=Identity(name, 1), role=role, model=model, **numbers)


def route(decision: Decision | Wait) -> tuple[str, str, str | None, str]:
    assert isinstance(decision, Decision)
    prefill = decision.prefill.node_id if decision.prefill else None
    return decision.route, decision.decode.node_id, prefill, decision.reason


P0, P1 = worker("p0", "prefill"), worker("p1", "prefill")
D0, D1 = worker("d0", "decode"), worker("d1", "decode")
M0, M1 = worker("m0", "mixed"), worker("m1", "mixed")


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ([P0, D0], ("remote", "d0", "p0", "split")),
        ([P0, M0], ("remote", "m0", "p0", "split")),
        ([M0], ("local", "m0", None, "mixed_worker")),
        ([D0], ("local", "d0", None, "no_prefill_worker")),
        ([P0], ("local", "p0", None, "no_decode_worker")),
        ([worker("p0", "prefill", prefilling=4), M0], ("local", "m0", None, "prefill_busy")),
        (
            [worker("p0", "prefill", tokens=500), worker("p1", "prefill"), D0],
            ("remote", "d0", "p1", "split"),
        ),
        (
            [worker("p0", "prefill", tokens=10), worker("p1", "prefill", tokens=20), D0],
            ("remote", "d0", "p0", "split"),
        ),
        ([P0, worker("d0", "decode", decoding=2), D1], ("remote", "d1", "p0", "split")),
        (
            [P0, worker("d0", "decode", available_blocks=3, decoding=1),
             worker("d1", "decode", decoding=3)],
            ("remote", "d1", "p0", "split"),
        ),
        ([worker("m0", "mixed", decoding=4), M1], ("local", "m1", None, "mixed_worker")),
    ],
)
def test_routes(
    workers: list[Candidate], expected: tuple[str, str, str | None, str]
) -> None:
    assert route(decide(FACTS, workers)) == expected


def test_one_token_needs_no_decode_worker() -> None:
    facts = RequestFacts(tokens=100, blocks=7, remaining=1)
    assert route(decide(facts, [P0, D0])) == ("local", "p0", None, "single_token")


def test_waiting() -> None:
    full = worker("d0", "decode", decoding=4)
    assert decide(FACTS, []) is Wait.NO_WORKER
    assert decide(FACTS, [P0, full]) is Wait.BUSY
    assert decide(FACTS, [worker("p0", "prefill", prefilling=4), D0]) is Wait.BUSY
    assert decide(FACTS, [P0, D0], {D0.identity}) is Wait.EXCLUDED
    assert decide(FACTS, [P0], {P0.identity}) is Wait.EXCLUDED


def test_exclusion() -> None:
    assert route(decide(FACTS, [P0, P1, D0], {P0.identity})) == ("remote", "d0", "p1", "split")
    assert route(decide(FACTS, [P0, D0], {P0.identity})) == (
        "local", "d0", None, "prefill_excluded",
    )


def test_an_idle_worker_is_asked_even_if_its_blocks_look_too_few() -> None:
    tiny = worker("d0", "decode", available_blocks=1)
    assert route(decide(FACTS, [tiny]))[1] == "d0"
    assert decide(FACTS, [worker("d0", "decode", available_blocks=1, decoding=1)]) is Wait.BUSY

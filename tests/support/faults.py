"""The fault bench's cluster, at the size of a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import environment

from baton.bench.faults.ground import Ground
from baton.bench.faults.judge import Verdict
from baton.bench.faults.load import Ask, random_asks
from baton.bench.faults.matrix import Case, Scale, cases
from baton.bench.faults.parts import Parts, Plan
from baton.bench.tiny_model import make_tiny_model

IN_FLIGHT = 40
SCALE = Scale(in_flight=IN_FLIGHT, rounds=1, cut=4.0, cancels=80)


def some_asks(count: int = 60, output: tuple[int, int] = (100, 150)) -> list[Ask]:
    return random_asks(count, seed=7, output=output, prompt=(40, 200))


def case_named(name: str) -> Case:
    return next(case for case in cases() if case.name == name)


@contextmanager
def ground_of(
    case: Case, folder: Path, asks: Sequence[Ask], in_flight: int = IN_FLIGHT, pairs: int = 2,
    *, patient: bool = True,
) -> Iterator[Ground]:
    """The case's cluster with a tiny model, with at most so many workers of each role. At the end
    nothing may be held anywhere. `patient`: as in `cluster.environment`."""
    model = make_tiny_model(folder / "tiny", max_position=512)
    plan = case.plan(Plan(model=str(model)), asks)
    plan = replace(plan, prefill=min(pairs, plan.prefill), decode=min(pairs, plan.decode))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        for name, value in environment(patient=patient).items():
            patch.setenv(name, value)
        with Parts(plan) as parts:
            yield Ground(parts, asks, concurrency=in_flight, seed=1)
            assert parts.wait_clean() == {}


def check(verdict: Verdict) -> Verdict:
    """Nothing was lost, changed or left behind. What took long is the bench's business: a test's
    machine is shared."""
    print(verdict)
    assert verdict.problems == []
    assert verdict.left == {}
    assert verdict.in_flight > 0, "the fault struck when nothing ran"
    return verdict

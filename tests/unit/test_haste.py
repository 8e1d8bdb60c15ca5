"""Steps of prompts that can wait, while others that cannot may come at any time."""

from __future__ import annotations

import math

import msgspec
import pytest
from engine_driver import BLOCK, Driver
from make_request import make_request

from baton.engine.commands import UseCurve
from baton.engine.haste import FAR, MEMORY, PART, Haste
from baton.protocol.curves import StepCurve
from baton.protocol.records import Targets

CURVE = StepCurve(
    base=0.5, chunk=0.0, token=0.01, pair=0.0, decode=0.0, context=0.0, spread=0.0, steps=100)


def test_the_tightest_target_of_late_counts_for_what_is_due_far_later() -> None:
    haste = Haste()
    assert haste.longest(60.0, 0.0) == math.inf
    haste.came(None, 0.0)
    assert haste.longest(60.0, 0.0) == math.inf
    haste.came(2.0, 0.0)
    haste.came(4.0, 1.0)
    assert haste.longest(60.0, 1.0) == PART * 2.0
    assert haste.longest(2.0 + FAR, 1.0) == math.inf  # it is urgent itself
    haste.came(4.0, MEMORY + 0.5)
    assert haste.longest(60.0, MEMORY + 0.5) == PART * 4.0
    assert haste.longest(60.0, 3 * MEMORY) == math.inf


def chunks(curve: StepCurve, ttft: float | None) -> list[int]:
    """Of a prompt of 100 tokens that is due in a minute, with nothing else to do, after one with
    this target."""
    driver = Driver(num_blocks=64, max_batch_tokens=128, prefill_chunk=64)
    driver.scheduler.apply(UseCurve(curve), 0.0)
    hasty = make_request("hasty", [1, 2], max_tokens=1, due_in=1.0)
    driver.start(msgspec.structs.replace(hasty, targets=Targets(ttft=ttft)))
    driver.run()
    driver.start(make_request("far", range(100, 200), max_tokens=1, due_in=60.0))
    steps = iter(driver.step, [])
    return [item.num_tokens for batch in steps for item in batch]


def test_a_step_without_urgent_prompts_is_a_short_one_while_these_may_come() -> None:
    assert chunks(CURVE, None) == [64, 36]
    assert chunks(CURVE, 100.0) == [64, 36]
    most = round((PART * 8.0 - CURVE.base) / CURVE.token) // BLOCK * BLOCK
    assert most < 36
    found = chunks(CURVE, 8.0)
    assert found[:-1] == [most] * (100 // most)
    assert sum(found) == 100


@pytest.mark.parametrize("chunk", [0.0, 100.0])
def test_it_goes_on_even_where_an_empty_step_takes_longer_than_that(chunk: float) -> None:
    """Nothing else would wake the engine."""
    curve = StepCurve(base=9.0, chunk=chunk, token=1e-3, pair=0.0, decode=0.0, context=0.0,
                      spread=0.0, steps=9)
    found = chunks(curve, 1.0)
    assert sum(found) == 100
    assert min(found) > 0

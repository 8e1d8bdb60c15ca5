"""What a worker says of what it has on its hands."""

from __future__ import annotations

import pytest
from engine_driver import Driver
from make_request import make_request

from baton.engine.commands import UseCurve
from baton.protocol.curves import StepCurve, StepShape

CURVE = StepCurve(
    base=0.010, chunk=0.002, token=0.0001, pair=1e-7, decode=0.001, context=1e-6, spread=0.02,
    steps=100)


def crowded(use: StepCurve | None = CURVE, **limits: int) -> Driver:
    driver = Driver(num_blocks=512, max_model_len=1000, max_batch_tokens=64, **limits)
    if use is not None:
        driver.apply(UseCurve(use))
    return driver


def test_decodes_are_told_with_what_they_attend_to() -> None:
    driver = crowded()
    driver.start(make_request("a", list(range(10)), max_tokens=30))
    driver.start(make_request("b", list(range(50, 57)), max_tokens=30))
    driver.step()
    driver.start(make_request("c", list(range(100, 200))))
    driver.step()
    load = driver.scheduler.load()
    assert (load.running, load.decoding, load.decode_context) == (3, 2, 12 + 9)


def test_backlog_without_a_curve_is_unknown() -> None:
    driver = crowded(None)
    assert driver.scheduler.load().backlog_seconds == 0
    driver.start(make_request("a", list(range(10))))
    assert driver.scheduler.load().backlog_seconds is None


@pytest.mark.parametrize("itl", [None, 0.025, 0.016, 0.001])
def test_backlog_is_what_the_steps_then_take(itl: float | None) -> None:
    """With a runner that takes as long as the curve says."""
    driver = crowded()
    if itl is not None:
        driver.start(make_request("decodes", [1, 2, 3], max_tokens=900, itl=itl))
        driver.step()
    for index, length in enumerate((10, 300, 50, 170)):
        tokens = list(range(1000 * index, 1000 * index + length))
        driver.start(make_request(f"p{index}", tokens, max_tokens=1))
    driver.step()
    predicted = driver.scheduler.load().backlog_seconds
    taken = 0.0
    while driver.scheduler.load().waiting_tokens:
        batch = driver.scheduler.schedule(driver.now)
        shape = StepShape()
        for item in batch:
            past = item.seq.num_computed
            shape += (
                StepShape.decodes(1, past + 1)
                if item.num_tokens == 1
                else StepShape.chunk(item.num_tokens, past)
            )
        taken += CURVE.seconds(shape)
        driver.scheduler.complete(batch, driver.runner.step(batch), driver.now)
    assert predicted == pytest.approx(taken, rel=0.1)


def test_nothing_to_do_is_no_backlog() -> None:
    driver = crowded()
    driver.start(make_request("a", list(range(10)), max_tokens=30))
    driver.step()
    assert driver.scheduler.load().backlog_seconds == 0

"""What requests ask of the workers, over the real registry."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from plain_sessions import join, make

from baton.protocol.curves import StepCurve
from baton.protocol.records import Curves, Targets
from baton.router.dispatcher import Dispatcher
from baton.router.flight import Flight
from baton.router.forecast import Demand, Forecast

CURVE = StepCurve(
    base=0.0, chunk=0.0, token=1e-3, pair=0.0, decode=1e-3, context=0.0, spread=0.1, steps=99
)


def flight(number: int = 0, *, tokens: int = 100, itl: float | None = None) -> Flight:
    request = make(max_tokens=50, prompt=range(tokens), targets=Targets(ttft=1.0, itl=itl))
    return Flight(request, number, 0.0, lambda *_: None)


def forecast(dispatcher: Dispatcher) -> Forecast:
    return dispatcher._sending._forecast


async def test_a_request_asks_for_its_prompt_and_its_answer_in_large_batches() -> None:
    dispatcher = Dispatcher()
    workers = [join(dispatcher, name, "mixed", curve=None) for name in ("m0", "m1")]
    unknown = Demand(pytest.approx(0.01), 0.0)  # type: ignore[arg-type]
    assert forecast(dispatcher).demand(flight(), 0.0) == unknown
    for worker in workers:
        dispatcher.on_record(worker, Curves(step=replace(CURVE, base=16e-3)))
    prompt, whole = forecast(dispatcher).demand(flight(), 1.0)
    assert prompt == pytest.approx(0.1 + 16e-3 * 100 / 512)
    slots = workers[0].hello.max_running
    answer = 50 * (1e-3 + 16e-3 / slots)
    assert whole == pytest.approx((prompt + answer) / 2)  # of both workers together
    _, slower = forecast(dispatcher).demand(flight(itl=20e-3), 1.0)
    batch = (0.9 * 20e-3 - 16e-3) / 1e-3  # more would take longer
    assert slower == pytest.approx((prompt + 50 * (1e-3 + 16e-3 / batch)) / 2)
    dispatcher.close()


async def test_where_nobody_has_room_speeds_do_not_say_how_fast_the_queue_moves() -> None:
    dispatcher = Dispatcher()
    worker = join(dispatcher, "m0", "mixed", curve=CURVE)
    assert forecast(dispatcher).capacity(flight(), 0.0) == pytest.approx(1.0)
    for number in range(worker.hello.max_running):
        worker.hold_decode(flight(number))
    assert forecast(dispatcher).capacity(flight(), 0.05) == pytest.approx(1.0)  # as of just now
    assert forecast(dispatcher).capacity(flight(), 1.0) is None
    dispatcher.close()

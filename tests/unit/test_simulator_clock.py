"""Simulated time: what asyncio code sees of it, and that it never waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from baton.bench.simulator.clock import SimulatedLoop


def test_time_jumps_to_what_is_due_and_stands_still_meanwhile() -> None:
    loop, seen = SimulatedLoop(), []
    loop.call_later(3600.0, lambda: seen.append(("late", loop.time())))
    loop.call_later(0.5, lambda: (time.sleep(0.01), seen.append(("early", loop.time()))))
    started = time.monotonic()
    loop.run_until(7200.0)
    assert seen == [("early", 0.5), ("late", 3600.0)]
    assert loop.time() == 7200.0
    assert time.monotonic() - started < 60


def test_what_is_due_at_once_runs_in_the_order_asked() -> None:
    loop, seen = SimulatedLoop(), []
    for number in range(100):
        loop.call_at(1.0, seen.append, number)
        loop.at(1.0, seen.append, 1000 + number)
    loop.run_until(1.0)
    assert seen == [value for number in range(100) for value in (number, 1000 + number)]


def test_only_what_is_due_runs() -> None:
    loop, seen = SimulatedLoop(), []
    loop.call_later(1.0, seen.append, "in")
    loop.call_later(2.0, seen.append, "out")
    cancelled = loop.call_later(0.5, seen.append, "cancelled")
    cancelled.cancel()
    loop.run_until(1.5)
    assert seen == ["in"]
    loop.run_until(2.0)
    assert seen == ["in", "out"]


def test_coroutines_tasks_and_timeouts() -> None:
    loop, seen = SimulatedLoop(), []

    async def sleeper(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return asyncio.get_running_loop().time()

    async def main() -> None:
        seen.extend(await asyncio.gather(sleeper(2.0), sleeper(1.0)))
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(5.0, event.set)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(event.wait(), 1.0)
        seen.append(asyncio.get_running_loop().time())

    task = loop.create_task(main())
    loop.run_until(100.0)
    assert task.done()
    task.result()
    assert seen == [2.0, 1.0, 3.0]


def test_an_error_in_a_callback_ends_the_run() -> None:
    loop = SimulatedLoop()

    def fail() -> None:
        raise ZeroDivisionError("boom")

    loop.call_later(1.0, fail)
    with pytest.raises(ZeroDivisionError):
        loop.run_until(2.0)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()

"""The loop that tests run on: time passes on it only while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from steady_loop import STEP, SteadyLoop


class Clock:
    """The machine's, and what the process stood still for."""

    stood_still = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.stood_still


@contextmanager
def running() -> Iterator[tuple[SteadyLoop, Clock]]:
    clock = Clock()
    loop = SteadyLoop(clock)
    yield loop, clock
    loop.close()


def test_tests_run_on_it() -> None:
    async def mine() -> type[asyncio.AbstractEventLoop]:
        return type(asyncio.get_running_loop())

    assert asyncio.run(mine()) is SteadyLoop


async def test_coroutine_tests_too() -> None:
    assert isinstance(asyncio.get_running_loop(), SteadyLoop)


def test_a_pause_is_hardly_any_time() -> None:
    with running() as (loop, clock):
        before = loop.time()
        clock.stood_still = 1000.0
        assert 0.0 < loop.time() - before <= STEP


def test_what_is_ready_has_its_turn_before_a_timer_that_a_pause_made_due() -> None:
    with running() as (loop, clock):
        done: list[str] = []

        async def impatient() -> None:
            async with asyncio.timeout(0.2):
                for _ in range(5):  # what takes some turns of the loop
                    await asyncio.sleep(0)
                    clock.stood_still += 2.0
            done.append("served")

        loop.run_until_complete(impatient())
        assert done == ["served"]


def test_sleeping_takes_its_time_and_counts() -> None:
    with running() as (loop, _):
        before, real = loop.time(), time.monotonic()
        loop.run_until_complete(asyncio.sleep(5 * STEP))
        assert loop.time() - before >= 5 * STEP
        assert time.monotonic() - real >= 5 * STEP


def test_steps_of_a_sleep_wake_nobody() -> None:
    with running() as (loop, _):
        passes = 0
        run_once = loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            nonlocal passes
            passes += 1
            run_once()

        loop._run_once = counted  # type: ignore[attr-defined]
        loop.run_until_complete(asyncio.sleep(10 * STEP))
        assert passes < 8

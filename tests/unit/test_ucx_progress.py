"""Driving a worker from an event loop, with a worker that does as the test says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from transports import until

from baton.kvtransfer.transport import Operation
from baton.kvtransfer.ucx import progress as module
from baton.kvtransfer.ucx.binding import Worker
from baton.kvtransfer.ucx.progress import FINISH_PER_PASS, PROGRESS_PER_PASS, Progress


class FakeRequest:
    completed = False

    def check_error(self) -> None:
        assert self.completed


class FakeWorker:
    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.work = 0
        self.armable = True
        self.arms = 0

    def progress_once(self) -> bool:
        if self.work:
            self.work -= 1
            return True
        return False

    def arm(self) -> bool:
        self.arms += 1
        return self.armable


class Harness:
    def __init__(self) -> None:
        self.worker = FakeWorker()
        self.ended: list[Operation] = []
        self.progress = Progress(cast(Worker, self.worker), asyncio.get_running_loop(), self._end)

    def _end(self, operation: Operation, error: Exception | None) -> None:
        operation.finish(error)
        self.ended.append(operation)

    def post(self, key: Any = "peer") -> tuple[FakeRequest, Operation]:
        request, operation = FakeRequest(), Operation(b"", lambda _: None)
        self.progress.outstanding.add_send(key, request, operation)
        self.progress.posted()
        return request, operation


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    made = Harness()
    yield made
    made.progress.stop()
    os.close(made.worker.event_fd)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_endless_work_leaves_the_loop_to_others(harness: Harness) -> None:
    harness.worker.work = 100 * PROGRESS_PER_PASS
    harness.progress.posted()
    done = 0
    for _ in range(20):
        before = harness.worker.work
        await asyncio.sleep(0)
        # Never more than the pass that was scheduled.
        assert before - harness.worker.work <= PROGRESS_PER_PASS
        done += before - harness.worker.work
    assert done >= 15 * PROGRESS_PER_PASS


async def test_much_that_completed_is_reported_piece_by_piece(harness: Harness) -> None:
    posted = [harness.post() for _ in range(5 * FINISH_PER_PASS)]
    for request, _ in posted:
        request.completed = True
    for _ in range(10):
        before = len(harness.ended)
        await asyncio.sleep(0)
        assert len(harness.ended) - before <= FINISH_PER_PASS
    assert harness.ended == [operation for _, operation in posted]


async def test_what_completes_out_of_order_is_found_before_sleep(harness: Harness) -> None:
    posted = [harness.post() for _ in range(40)]
    posted[17][0].completed = True
    await turns(5)
    assert harness.ended == [posted[17][1]]
    assert harness.worker.arms


async def test_among_very_many_it_is_found_a_little_later(harness: Harness) -> None:
    posted = [harness.post() for _ in range(2000)]
    await turns(5)
    assert harness.ended == []
    posted[1500][0].completed = True
    harness.worker.work = 1
    harness.progress.posted()
    await until(lambda: harness.ended, "the operation")
    assert harness.ended == [posted[1500][1]]


async def test_a_worker_that_cannot_be_armed_is_asked_ever_less(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.worker.armable = False
    # The event fd says "look" all the time; it must not be listened to meanwhile.
    os.eventfd_write(harness.worker.event_fd, 1)
    pauses: list[float] = []
    call_later = harness.progress._call_later

    def noted(seconds: float) -> None:
        pauses.append(seconds if harness.progress._timer is None else 0.0)  # it was not over yet
        call_later(seconds)

    monkeypatch.setattr(harness.progress, "_call_later", noted)
    request, operation = harness.post()
    await until(lambda: len(pauses) >= 8, "some pauses")
    shortest, longest = module.BUSY_PAUSE_SECONDS
    assert pauses[:8] == [min(longest, shortest * 2**number) for number in range(8)]
    assert pauses[7] == longest
    assert harness.worker.arms == module.BUSY_PASSES + len(pauses), "once after each"
    request.completed = True
    await until(lambda: harness.ended, "the operation")
    assert harness.ended == [operation]


async def test_operations_that_were_never_posted_fail_later(harness: Harness) -> None:
    operation = Operation(b"", lambda _: None)
    harness.progress.fail(operation, ConnectionResetError("gone"))
    assert not operation.done
    await turns(3)
    assert isinstance(operation.error, ConnectionResetError)


async def test_nothing_is_reported_after_stop(harness: Harness) -> None:
    request, _ = harness.post()
    request.completed = True
    harness.progress.fail(Operation(b"", lambda _: None), OSError("no"))
    harness.progress.stop()
    harness.progress.stop()
    await turns(5)
    assert harness.ended == []

"""The engine thread: it sleeps when idle, wakes at once, outlives failing steps, stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Event, Semaphore, Thread

import pytest
from engine_driver import BLOCK
from fake_runner import FakeRunner, undisturbed
from make_request import make_request

from baton.engine.batch import BatchItem
from baton.engine.block_pool import BlockPool
from baton.engine.commands import (
    ChangeRole,
    Command,
    Progress,
    Release,
    ReserveBlocks,
    Reserved,
    SequenceFailed,
    Start,
    StepCompleted,
)
from baton.engine.core import Engine, RunnerBroken
from baton.engine.limits import SchedulerLimits
from baton.engine.scheduler import Scheduler
from baton.protocol.curves import attention_pairs

PROMPT = list(range(10))
DEADLINE = 60.0


class Rig:
    """An engine, and what it published."""

    def __init__(self) -> None:
        self.pool = BlockPool(32)
        limits = SchedulerLimits(max_model_len=100, max_running=4, max_batch_tokens=32)
        self.scheduler = Scheduler(self.pool, limits, block_size=BLOCK)
        self.runner = FakeRunner(32, BLOCK)
        self.published: list[StepCompleted] = []
        self.fatal: list[BaseException] = []
        self._changed = Condition()
        self.engine = Engine(
            self.scheduler, self.runner, self._publish, on_fatal=self._on_fatal, max_failures=3
        )

    def _publish(self, step: StepCompleted) -> None:
        with self._changed:
            self.published.append(step)
            self._changed.notify_all()

    def _on_fatal(self, error: BaseException) -> None:
        with self._changed:
            self.fatal.append(error)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), self.published

    def wait_until_idle(self, condition: Callable[[], bool] = lambda: True) -> None:
        """The end of a pass that found nothing to do is not published."""
        deadline = time.monotonic() + DEADLINE
        while not condition() or self.engine.load()[1] != 0.0:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def events(self) -> list[Reserved | Progress | SequenceFailed]:
        return [event for step in self.published for event in step.events]

    def output(self, command: Start) -> list[int]:
        return [
            token
            for event in self.events()
            if isinstance(event, Progress) and event.key == command.request.key
            for token in event.tokens
        ]

    def ended(self, command: Start) -> bool:
        return any(
            event.key == command.request.key
            and (isinstance(event, SequenceFailed) or event.finish_reason is not None)
            for event in self.events()
            if isinstance(event, SequenceFailed | Progress)
        )

    def submit(self, *commands: Command) -> None:
        for command in commands:
            self.engine.submit(command)


@contextmanager
def running() -> Iterator[Rig]:
    rig = Rig()
    rig.engine.start()
    try:
        yield rig
    finally:
        assert rig.engine.stop(DEADLINE)


def start(name: str, **options: int) -> Start:
    return Start(make_request(name, [ord(name[0]), *PROMPT], **options), hold=False)


def expected(command: Start, count: int = 4) -> list[int]:
    return undisturbed([ord(command.request.key.request_id[0]), *PROMPT], count)


def test_sequences_run_to_their_end_and_are_told_step_by_step() -> None:
    with running() as rig:
        one, two = start("one"), start("two")
        rig.submit(one, two)
        rig.wait(lambda: rig.ended(one) and rig.ended(two))
        assert rig.output(one) == expected(one)
        assert rig.output(two) == expected(two)
        stats = [step.stats for step in rig.published if step.stats is not None]
        shapes = [s.shape for s in stats]
        assert sum(shape.prefill_chunks for shape in shapes) == 2
        assert sum(shape.prefill_tokens for shape in shapes) == 22
        assert sum(shape.prefill_pairs for shape in shapes) == 2 * attention_pairs(11, 0)
        assert sum(shape.decode_sequences for shape in shapes) == 6
        assert sum(shape.decode_context for shape in shapes) == 2 * (12 + 13 + 14)
        assert rig.published[-1].load.blocks.active == 0
    assert rig.fatal == []



def test_steps_tell_the_tightest_target_of_what_decodes_in_them() -> None:
    with running() as rig:
        rig.submit(start("one", itl=2), start("two", itl=1), start("plain"))
        rig.wait(lambda: all(rig.ended(start(name)) for name in ("one", "two", "plain")))
        stats = [step.stats for step in rig.published if step.stats is not None]
        assert all(
            s.itl == math.inf for s in stats if not s.shape.decode_sequences)
        assert min(s.itl for s in stats if s.shape.decode_sequences) == 1


def times_slept(thread: Thread) -> int:
    """How often it gave its core up, so it was awake as often."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_an_idle_engine_uses_no_cpu_and_wakes_for_a_command() -> None:
    with running() as rig:
        one = start("one")
        rig.submit(one)
        rig.wait(lambda: rig.ended(one))
        thread = rig.engine._thread
        assert thread.ident is not None
        rig.wait_until_idle()
        clock = time.pthread_getcpuclockid(thread.ident)
        before, slept = time.clock_gettime(clock), times_slept(thread)
        Event().wait(0.2)  # nothing to wait for: it is the idling that is measured
        assert time.clock_gettime(clock) - before < 0.01
        assert times_slept(thread) - slept < 5
        assert rig.engine.load()[1] == 0.0
        two = start("two")
        rig.submit(two)
        rig.wait(lambda: rig.ended(two))


def test_waiting_for_blocks_is_idle_too() -> None:
    with running() as rig:
        lease = make_request("lease", [1] * 90)
        rig.submit(Start(lease, hold=True))
        rig.wait(lambda: any(isinstance(e, Progress) and e.prefill_done for e in rig.events()))
        waiting = Start(make_request("waiting", [2] * 60), hold=False)
        rig.submit(waiting)
        rig.wait_until_idle(lambda: rig.engine.load()[0].waiting == 1)
        rig.submit(Release(lease.key))
        rig.wait(lambda: rig.ended(waiting))


def test_answers_do_not_wait_for_the_step_after_them() -> None:
    with running() as rig:
        entered, go_on = Semaphore(0), Semaphore(0)

        def before_step(items: Sequence[BatchItem]) -> None:
            entered.release()
            assert go_on.acquire(timeout=DEADLINE)

        rig.runner.before_step = before_step
        rig.submit(start("one", max_tokens=2))
        assert entered.acquire(timeout=DEADLINE)  # in the first step
        rig.submit(ReserveBlocks(make_request("two", PROMPT)))
        assert rig.engine.load()[1] > 0.0  # the age of the step under way
        go_on.release()
        assert entered.acquire(timeout=DEADLINE)  # in the second
        assert any(isinstance(event, Reserved) for event in rig.events())
        go_on.release()


def test_a_release_during_a_step_takes_effect_at_its_end() -> None:
    with running() as rig:
        entered, go_on = Event(), Event()

        def before_step(items: Sequence[BatchItem]) -> None:
            entered.set()
            assert go_on.wait(DEADLINE)

        rig.runner.before_step = before_step
        one, two = start("one", max_tokens=50), start("two", max_tokens=2)
        rig.submit(one)
        assert entered.wait(DEADLINE)
        rig.submit(Release(one.request.key), two)
        go_on.set()
        rig.wait(lambda: rig.ended(two))
        assert not rig.ended(one)
        assert len(rig.output(one)) == 1
    rig.scheduler.check_integrity()
    assert rig.pool.counts().active == 0


def test_a_failing_step_ends_its_sequences_and_the_engine_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running() as rig:

        def before_step(items: Sequence[BatchItem]) -> None:
            if any(item.seq.key.request_id == "bad" for item in items):
                raise RuntimeError("device-side assert")

        rig.runner.before_step = before_step
        bad = start("bad")
        rig.submit(bad)
        rig.wait(lambda: rig.ended(bad))
        [failure] = rig.events()
        assert isinstance(failure, SequenceFailed)
        assert failure.code == "internal_error"
        assert "RuntimeError: device-side assert" in failure.message
        assert "device-side assert" in caplog.text
        good = start("good")
        rig.submit(good)
        rig.wait(lambda: rig.ended(good))
        assert rig.output(good) == expected(good)
    assert rig.fatal == []
    rig.scheduler.check_integrity()


def test_steps_that_keep_failing_are_fatal() -> None:
    with running() as rig:

        def before_step(items: Sequence[BatchItem]) -> None:
            raise RuntimeError("broken")

        rig.runner.before_step = before_step
        for name in ("a", "b", "c"):
            command = start(name)
            rig.submit(command)
            rig.wait(lambda command=command: rig.ended(command))  # type: ignore[misc]
        rig.wait(lambda: rig.fatal != [])
        [error] = rig.fatal
        assert isinstance(error, RunnerBroken)
        assert isinstance(error.__cause__, RuntimeError)


def test_a_command_that_makes_no_sense_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with running() as rig:
        broken = Start(make_request("broken", []), hold=False)
        torn = Start(
            type(broken.request)(
                key=make_request("torn", []).key,
                choice=0,
                prompt=b"123",
                sampling=broken.request.sampling,
            ),
            hold=False,
        )
        one = start("one")
        rig.submit(ChangeRole("router"), broken, torn, one)
        rig.wait(lambda: rig.ended(one) and rig.ended(broken) and rig.ended(torn))
        assert rig.output(one) == expected(one)
        assert "cannot carry out ChangeRole" in caplog.text
    assert rig.fatal == []


def test_books_that_do_not_balance_are_fatal() -> None:
    with running() as rig:
        one = Start(make_request("one", PROMPT), hold=True)
        rig.submit(one)
        rig.wait(lambda: any(isinstance(e, Progress) and e.prefill_done for e in rig.events()))
        rig.pool._uses[1][0] = 0
        rig.submit(Release(one.request.key))
        rig.wait(lambda: rig.fatal != [])


def test_stop_before_start_and_twice() -> None:
    rig = Rig()
    assert rig.engine.stop()
    with running() as rig:
        pass
    assert rig.engine.stop()

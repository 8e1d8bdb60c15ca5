"""The engine thread: receive, schedule, run, publish, and nothing else.

It owns scheduler, pool and runner from `start` to `stop`; other threads reach it by `submit` and
read `load`. With nothing to run it sleeps until a command comes. `publish` is called on this
thread and must not block: answers to commands go out before the step that follows them, so that
a reservation does not wait for somebody else's prefill.

A step that fails ends the sequences in it, not the worker. A failure that goes on with other
sequences, or one of the bookkeeping itself, ends the engine and is told to the owner.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

from baton.engine.batch import BatchItem, StepResult, step_shape
from baton.engine.block_pool import IntegrityError
from baton.engine.commands import (
    Command,
    EngineLoad,
    Event,
    Park,
    PinCached,
    Refused,
    ReserveBlocks,
    SequenceFailed,
    Start,
    StepCompleted,
    StepStats,
)
from baton.engine.scheduler import Scheduler

log = logging.getLogger(__name__)


class Runner(Protocol):
    """The model. One entry of the result per item of the batch."""

    def step(self, items: Sequence[BatchItem]) -> StepResult: ...


class RunnerBroken(RuntimeError):
    """Steps keep failing, whatever is in them."""


class Engine:
    """`on_fatal(error)` is called on the engine thread as its last act; sequences and commands
    are then left as they are. `max_failures`: so many steps in a row fail before that."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        publish: Callable[[StepCompleted], None],
        *,
        on_fatal: Callable[[BaseException], None],
        max_failures: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._publish = publish
        self._on_fatal = on_fatal
        self._max_failures = max_failures
        self._clock = clock
        self._inbox: SimpleQueue[tuple[Command | None, float]] = SimpleQueue()
        self._load = scheduler.load()
        self._asleep = False
        self._last_sign = clock()
        self._failures = 0
        self._thread = Thread(target=self._main, name="engine", daemon=True)

    # -- from other threads ------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def submit(self, command: Command) -> None:
        """Take effect before the next step; wakes an idle engine at once. Never blocks."""
        self._inbox.put((command, self._clock()))

    def stop(self, timeout: float | None = None) -> bool:
        """End after the step under way and wait for it, at most `timeout` seconds. Sequences that
        have not ended get no further word. False when the thread is still in its step."""
        self._inbox.put((None, self._clock()))
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def load(self) -> tuple[EngineLoad, float]:
        """As of the last pass, and the step age: seconds since the engine last showed life while
        it had something to do; 0 when it had not."""
        if self._asleep:
            return self._load, 0.0
        return self._load, max(0.0, self._clock() - self._last_sign)

    # -- the loop ----------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            log.critical("the engine ends", exc_info=True)
            self._on_fatal(error)

    def _loop(self) -> None:
        idle = True
        while self._receive(wait=idle):
            batch = self._scheduler.schedule(self._clock())
            self._tell(self._scheduler.take_events(), None)
            if batch:
                events, stats = self._run(batch)
                self._tell(events, stats)
            idle = not batch

    def _receive(self, wait: bool) -> bool:
        """Carry out the commands that are there; with `wait`, sleep until there is one. False
        when told to stop."""
        while wait or not self._inbox.empty():
            command, given_at = self._sleep() if wait else self._inbox.get()
            wait = False
            if command is None:
                return False
            self._apply(command, given_at)
        return True

    def _sleep(self) -> tuple[Command | None, float]:
        self._asleep = True
        received = self._inbox.get()
        self._last_sign = self._clock()
        self._asleep = False
        return received

    def _run(self, batch: list[BatchItem]) -> tuple[list[Event], StepStats | None]:
        started = self._clock()
        try:
            result = self._runner.step(batch)
        except Exception as error:
            return self._step_failed(batch, error), None
        self._failures = 0
        now = self._clock()
        stats = _stats(batch, now - started)
        return self._scheduler.complete(batch, result, now), stats

    def _tell(self, events: list[Event], stats: StepStats | None) -> None:
        self._load = self._scheduler.load()
        self._last_sign = self._clock()
        cache = self._scheduler.take_cache_changes()
        if events or cache or stats is not None:
            self._publish(StepCompleted(tuple(events), self._load, stats, cache))

    # -- failures ----------------------------------------------------------------------------

    def _apply(self, command: Command, given_at: float) -> None:
        try:
            self._scheduler.apply(command, given_at)
        except IntegrityError:
            raise
        except Exception as error:
            log.exception("cannot carry out %s", type(command).__name__)
            match command:
                case Start() | ReserveBlocks():
                    failed = SequenceFailed(command.request.key, "internal_error", str(error))
                    self._tell([failed], None)
                case PinCached():
                    self._tell([Refused(command.request.key, "internal_error")], None)
                case Park():
                    self._tell([Refused(command.key, "internal_error")], None)

    def _step_failed(self, batch: list[BatchItem], error: Exception) -> list[Event]:
        self._failures += 1
        log.exception("a step of %d sequences failed, %d in a row", len(batch), self._failures)
        message = f"the model failed on a step: {type(error).__name__}: {error}"
        events = self._scheduler.abandon(batch, "internal_error", message)
        if self._failures >= self._max_failures:
            self._tell(events, None)
            raise RunnerBroken(f"{self._failures} steps in a row failed") from error
        return events


def _stats(batch: list[BatchItem], seconds: float) -> StepStats:
    """Before `complete`, while `num_computed` is what the step started from."""
    itl = min((item.seq.itl for item in batch if item.num_tokens == 1), default=math.inf)
    return StepStats(seconds, step_shape(batch), itl)

"""The engine of a simulated worker: the real scheduler, whose steps only take time.

Step by step, or with `fast_forward`: runs of steps in which a batch only decodes are taken at once
(`ahead.py`). Both draw the same noise in the same order, so they do the same at the same times.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton.bench.simulator.ahead import LEAST, MOST, Ahead, Ran, plan_ahead
from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.machine import Machine
from baton.bench.simulator.noise import Noise
from baton.bench.simulator.shared_names import PromptNames, SharedPrefixCache
from baton.deploy.worker.cache_teller import TELL_SECONDS
from baton.engine.batch import BatchItem, StepResult, step_shape
from baton.engine.block_pool import BlockPool
from baton.engine.cache_log import CacheChange
from baton.engine.commands import Command, Event
from baton.engine.scheduler import Scheduler
from baton.engine.scripted import scripted_token
from baton.protocol.curves import StepShape

Publish = Callable[[Sequence[Event], Sequence[CacheChange]], None]


@dataclass(slots=True)
class Work:
    """What an engine has done so far."""

    steps: int = 0
    busy: float = 0.0
    """Seconds."""
    prompt_tokens: int = 0
    """Computed, those that were computed again included."""
    decoded: int = 0
    ahead: int = 0
    """Of `steps`, those that were taken many at once."""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.steps + other.steps,
            self.busy + other.busy,
            self.prompt_tokens + other.prompt_tokens,
            self.decoded + other.decoded,
            self.ahead + other.ahead,
        )


class SimulatedEngine:
    """Commands take effect between steps, as in `baton.engine.core`; so do the answers to them.
    `factor` slows steps down, from the next one on; `on_step(shape, seconds)` sees each, `on_ran`
    what was taken at once."""

    def __init__(
        self,
        loop: SimulatedLoop,
        machine: Machine,
        role: str,
        seed: int,
        publish: Publish,
        on_step: Callable[[StepShape, float], None] | None,
        *,
        names: PromptNames | None = None,
        on_ran: Callable[[Ran], None] | None = None,
    ) -> None:
        """With `on_ran` it goes ahead where it can; then there must be no `on_step`."""
        self.scheduler = Scheduler(
            BlockPool(machine.num_blocks, changes=[]),
            machine.limits,
            block_size=machine.layout.block_size,
            role=role,
            salt=(machine.card.fingerprint, machine.layout.dtype),
            cache=SharedPrefixCache.with_names(names or PromptNames()),
        )
        self.work = Work()
        self.stopped = False
        self._factor = 1.0
        self._loop = loop
        self._curve = machine.curve
        self._noise = Noise(machine.curve.spread, seed)
        self._publish = publish
        self._on_step = on_step
        self._on_ran = on_ran
        self._inbox: list[tuple[Command, float]] = []
        self._stepping = False
        self._woken = False
        self._last_sign = 0.0
        self._ahead: Ahead | None = None

    @property
    def step_age(self) -> float:
        """Seconds since it last showed life while it had something to do."""
        return self._loop.time() - self._last_sign if self._stepping else 0.0

    @property
    def factor(self) -> float:
        return self._factor

    @factor.setter
    def factor(self, factor: float) -> None:
        self._factor = factor
        self._cut_short()

    def submit(self, command: Command) -> None:
        self._inbox.append((command, self._loop.time()))
        if not self._stepping and not self._woken:
            self._woken = True
            self._loop.call_soon(self._turn)
        elif self._ahead is not None:
            self._cut_short()

    def stop(self) -> None:
        """No step ends any more."""
        self.catch_up()
        self.stopped = True
        self._ahead = None

    # -- inside ------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Receive, schedule, tell, and begin a step if there is one."""
        self._woken = False
        if self.stopped:
            return
        scheduler, now = self.scheduler, self._loop.time()
        self._last_sign = now
        self._stepping = True
        if self._inbox:
            inbox, self._inbox = self._inbox, []
            for command, given_at in inbox:
                scheduler.apply(command, given_at)
        batch = scheduler.schedule(now)
        self._tell(scheduler.take_events())
        if not batch:
            self._stepping = False
            if self._inbox:
                self._woken = True
                self._loop.call_soon(self._turn)
            return
        shape = step_shape(batch)
        if self._on_ran is not None and self._go_ahead(batch, shape, now):
            return
        seconds = self._curve.seconds(shape) * self._factor * self._noise.next()
        self._loop.at(now + seconds, self._complete, batch, shape, seconds)

    def _complete(self, batch: list[BatchItem], shape: StepShape, seconds: float) -> None:
        if self.stopped:
            return
        work = self.work
        work.steps += 1
        work.busy += seconds
        work.prompt_tokens += shape.prefill_tokens
        work.decoded += shape.decode_sequences
        nothing = [None] * len(batch)
        tokens = [
            scripted_token(item.seq.request, len(item.seq.tokens) - item.seq.prompt_len)
            if item.sample else None
            for item in batch
        ]
        events = self.scheduler.complete(
            batch, StepResult(tokens, nothing, nothing), self._loop.time()  # type: ignore[arg-type]
        )
        self._tell(events)
        if self._on_step is not None:
            self._on_step(shape, seconds)
        self._turn()

    def _tell(self, events: Sequence[Event]) -> None:
        cache = self.scheduler.take_cache_changes()
        if events or cache:
            self._publish(events, cache)

    # -- many steps at once ------------------------------------------------------------------

    def _go_ahead(self, batch: list[BatchItem], shape: StepShape, now: float) -> bool:
        steps, until = self.scheduler.plain_steps(batch, MOST)
        if steps < LEAST:
            return False
        ahead = plan_ahead(
            batch, shape, steps, until, now, self._curve, self._factor, self._noise
        )
        if ahead is None:
            return False
        self._ahead = ahead
        self._watch_cache(ahead)
        self._loop.at(ahead.times[-1], self._arrived, ahead, len(ahead.times))
        return True

    def catch_up(self) -> None:
        """What has happened by now is so. To be called before anybody looks at it."""
        ahead = self._ahead
        if ahead is not None:
            done = bisect_left(ahead.times, self._loop.time(), ahead.done)
            if done > ahead.done:
                self._run_to(ahead, min(done, ahead.end - 1), goes_on=True)

    def _cut_short(self) -> None:
        """It ends with the step under way: something is to be done after it."""
        ahead = self._ahead
        if ahead is None:
            return
        end = bisect_left(ahead.times, self._loop.time(), ahead.done) + 1
        if end < ahead.end:
            ahead.end = end
            self._loop.at(ahead.times[end - 1], self._arrived, ahead, end)

    def _arrived(self, ahead: Ahead, end: int) -> None:
        if self._ahead is not ahead or ahead.end != end:
            return  # it was cut short, or the worker is dead
        self._run_to(ahead, end, goes_on=False)
        self._ahead = None
        self._noise.put_back(ahead.drawn - end)
        self._turn()

    def _run_to(self, ahead: Ahead, end: int, *, goes_on: bool) -> None:
        """The steps up to `end`, of its plan, are taken."""
        first, steps = ahead.done, end - ahead.done
        if steps <= 0:
            return
        ran, seconds = ahead.run_to(end)
        self._last_sign = ahead.times[end - 1]
        self.scheduler.complete_plain(ahead.batch, ran.tokens, goes_on=goes_on)
        work = self.work
        work.steps += steps
        work.ahead += steps
        work.busy += seconds
        work.decoded += steps * len(ahead.batch)
        assert self._on_ran is not None
        self._on_ran(ran)
        changes = self.scheduler.take_cache_changes()
        if changes:
            # The first one was after this step: what follows it is told when that is.
            with self._loop.as_of(ahead.times[max(first, min(ahead.change, end) - 1)]):
                self._publish((), changes)
        if goes_on:
            self._watch_cache(ahead)

    def _watch_cache(self, ahead: Ahead) -> None:
        """Routers hear of a change a while after it: then it has to be there."""
        ahead.change = ahead.done + self.scheduler.steps_to_cache_change(ahead.batch)
        if ahead.change < len(ahead.times):
            when = ahead.times[ahead.change - 1]
            self._loop.at(when + TELL_SECONDS, self._cache_due, ahead, ahead.change)

    def _cache_due(self, ahead: Ahead, change: int) -> None:
        if self._ahead is ahead and ahead.change == change:
            self.catch_up()

"""The engine of a simulated worker: the real scheduler, whose steps only take time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from baton.bench.simulator.clock import SimulatedLoop
from baton.bench.simulator.machine import Machine
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


class SimulatedEngine:
    """Commands take effect between steps, as in `baton.engine.core`; so do the answers to them.
    `factor` slows steps down, from the next one on; `on_step(shape, seconds)` sees each."""

    def __init__(
        self,
        loop: SimulatedLoop,
        machine: Machine,
        role: str,
        seed: int,
        publish: Publish,
        on_step: Callable[[StepShape, float], None],
    ) -> None:
        self.scheduler = Scheduler(
            BlockPool(machine.num_blocks, changes=[]),
            machine.limits,
            block_size=machine.layout.block_size,
            role=role,
            salt=(machine.card.fingerprint, machine.layout.dtype),
        )
        self.work = Work()
        self.factor = 1.0
        self.stopped = False
        self._loop = loop
        self._curve = machine.curve
        self._random = Random(seed)
        self._publish = publish
        self._on_step = on_step
        self._inbox: list[tuple[Command, float]] = []
        self._stepping = False
        self._woken = False
        self._last_sign = 0.0

    @property
    def step_age(self) -> float:
        """Seconds since it last showed life while it had something to do."""
        return self._loop.time() - self._last_sign if self._stepping else 0.0

    def submit(self, command: Command) -> None:
        self._inbox.append((command, self._loop.time()))
        if not self._stepping and not self._woken:
            self._woken = True
            self._loop.call_soon(self._turn)

    def stop(self) -> None:
        """No step ends any more."""
        self.stopped = True

    # -- inside ------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Receive, schedule, tell, and begin a step if there is one."""
        self._woken = False
        if self.stopped:
            return
        scheduler, now = self.scheduler, self._loop.time()
        self._last_sign = now
        self._stepping = True
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
        seconds = self._curve.seconds(shape) * self.factor
        if self._curve.spread:
            seconds *= math.exp(self._random.gauss(0.0, self._curve.spread))
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
            scripted_token(item.seq.request, item.seq.num_output) if item.sample else None
            for item in batch
        ]
        events = self.scheduler.complete(
            batch, StepResult(tokens, nothing, nothing), self._loop.time()  # type: ignore[arg-type]
        )
        self._tell(events)
        self._on_step(shape, seconds)
        self._turn()

    def _tell(self, events: Sequence[Event]) -> None:
        cache = self.scheduler.take_cache_changes()
        if events or cache:
            self._publish(events, cache)

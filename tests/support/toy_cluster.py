"""A cluster in small steps of simulated time, for the controller of the pools: prompts from one
queue to workers that read, answers in batches on workers that write. Work that a worker has when
its role changes stays there."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from baton.protocol.curves import StepCurve
from baton.router.planner.controller import Cluster, Controller, ControllerSettings
from baton.router.planner.moves import Move, WorkerState
from baton.router.planner.phases import Kind
from baton.router.planner.workload import Item

STEP = 0.04
CURVE = StepCurve(
    base=0.012, chunk=0.0, token=8e-5, pair=2e-9, decode=1.5e-4, context=2.5e-7, spread=0.0, steps=1
)
KIND = Kind(CURVE, 400_000, 128)


@dataclass(eq=False)
class Running:
    number: int
    item: Item
    at: float
    first: float = -1.0
    done: float = 0.0
    work: float = 0.0
    """Seconds of prompt left."""


@dataclass(eq=False)
class ToyWorker:
    name: str
    role: str
    reading: list[Running] = field(default_factory=list)
    writing: list[Running] = field(default_factory=list)

    @property
    def reading_work(self) -> float:
        return sum(one.work for one in self.reading)


@dataclass
class Outcome:
    moves: list[tuple[float, Move, str]] = field(default_factory=list)
    """(when, what, trigger)."""
    ended: list[tuple[float, bool]] = field(default_factory=list)
    """(arrival, targets kept)."""

    def attained(self, start: float, end: float) -> float:
        kept = [good for at, good in self.ended if start <= at < end]
        return sum(kept) / len(kept)


class ToyCluster:
    """`roles`: one worker each. `ttft`, `itl`: the targets, seconds."""

    def __init__(
        self, roles: list[str], *, seed: int = 0, ttft: float = 1.0, itl: float = 0.04,
        settings: ControllerSettings | None = None, patience: float = 10.0,
    ) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.workers = [ToyWorker(f"w{i}", role) for i, role in enumerate(roles)]
        self.queue: deque[Running] = deque()
        self.controller = Controller(self.look, settings)
        self.outcome = Outcome()
        self.ttft, self.itl, self.patience = ttft, itl, patience
        self.moving = True
        """Whether moves are carried out."""
        self._number = 0
        self._tick_at = 0.0

    def look(self) -> Cluster:
        return Cluster(
            tuple(
                WorkerState(
                    w.name, w.role, KIND, False, len(w.writing), len(w.reading), w.reading_work,
                )
                for w in self.workers
            ),
            len(self.queue),
        )

    def run(
        self, seconds: float, rate: float, prompt: float, output: float, sigma: float = 0.6
    ) -> Outcome:
        """Poisson arrivals with lognormal lengths of these means."""
        end = self.now + seconds
        following = self.now + self.rng.expovariate(rate)
        while self.now < end:
            while following <= self.now:
                self._arrive(following, self._drawn(prompt, sigma), self._drawn(output, sigma))
                following += self.rng.expovariate(rate)
            self._step()
            if self.now >= self._tick_at:
                self._tick_at += 1.0
                self._tick()
        return self.outcome

    def _drawn(self, mean: float, sigma: float) -> int:
        return max(1, int(mean * self.rng.lognormvariate(-sigma**2 / 2, sigma)))

    def _arrive(self, at: float, prompt: int, output: int) -> None:
        self._number += 1
        item = Item(prompt, 0, output, self.ttft, self.itl)
        one = Running(self._number, item, at)
        one.work = CURVE.token * prompt + CURVE.pair * prompt * (prompt + 1) / 2
        self.queue.append(one)
        self.controller.observation.arrived(
            one.number, at, prompt, 4096, self.ttft, self.itl, lambda: int(one.done)
        )

    def _tick(self) -> None:
        for move in self.controller.tick(self.now):
            assert self.controller.last is not None
            self.outcome.moves.append((self.now, move, self.controller.last.trigger))
            if self.moving:
                worker = next(w for w in self.workers if w.name == move.worker)
                assert worker.role == move.before
                worker.role = move.role

    def _step(self) -> None:
        self.now += STEP
        while self.queue and self.now - self.queue[0].at > self.patience:
            late = self.queue.popleft()
            self.controller.observation.refused(late.number)
            self.outcome.ended.append((late.at, False))
        for worker in self.workers:
            self._read(worker)
            self._write(worker)

    def _read(self, worker: ToyWorker) -> None:
        """A step takes as many prompts as fit; beside decodes, only the time these leave."""
        quiet = CURVE.base + self._decodes(worker)
        left = STEP * (max(0.05, 1 - quiet / self.itl) if worker.writing else 1.0)
        while left > 0:
            if not worker.reading:
                if worker.role == "decode" or not self.queue:
                    return
                tokens = 0
                while self.queue and (not tokens or tokens + self.queue[0].item.prompt <= 2048):
                    one = self.queue.popleft()
                    worker.reading.append(one)
                    tokens += one.item.prompt
                if not worker.writing:
                    worker.reading[0].work += CURVE.base * -(-tokens // 2048)
            took = min(left, worker.reading_work)
            left -= took
            if worker.reading_work - took > 1e-9:
                worker.reading[0].work -= took
                return
            done, worker.reading = worker.reading, []
            for one in done:
                one.first, one.done = self.now - left, 1.0
                writers = [w for w in self.workers if w.role != "prefill"] or [worker]
                if one.item.output <= 1:
                    self._end(one)
                else:
                    min(writers, key=lambda w: len(w.writing)).writing.append(one)

    def _write(self, worker: ToyWorker) -> None:
        if not worker.writing:
            return
        step = CURVE.base + self._decodes(worker)
        if worker.reading:
            step = max(step, self.itl * 0.98)
        for one in list(worker.writing):
            one.done += STEP / step
            if one.done >= one.item.output:
                worker.writing.remove(one)
                self._end(one)

    def _decodes(self, worker: ToyWorker) -> float:
        return sum(
            CURVE.decode + CURVE.context * (one.item.prompt + one.done) for one in worker.writing
        )

    def _end(self, one: Running) -> None:
        gaps = max(1, one.item.output - 1)
        kept = one.first - one.at <= self.ttft and (self.now - one.first) / gaps <= self.itl
        self.outcome.ended.append((one.at, kept))
        self.controller.observation.ended(one.number, one.item.output, 0)

"""Runs a scheduler with the fake runner, step by step, and keeps what each sequence was told."""

from __future__ import annotations

from collections import defaultdict

from fake_runner import FakeRunner

from baton.engine.batch import BatchItem
from baton.engine.block_pool import BlockPool
from baton.engine.cache_log import CacheChange
from baton.engine.commands import (
    AdmitReserved,
    Command,
    Event,
    Park,
    PinCached,
    Progress,
    Refused,
    Release,
    ReserveBlocks,
    Reserved,
    SequenceFailed,
    Start,
)
from baton.engine.limits import SchedulerLimits
from baton.engine.scheduler import Scheduler
from baton.protocol.ids import RequestKey
from baton.protocol.records import BlockCounts, Request
from baton.protocol.tokens import unpack_tokens

BLOCK = 4


class Driver:
    """Time goes on by one second per step. Checks the integrity of everything at each step, and
    that the tokens of each sequence come without gap or repetition."""

    def __init__(
        self,
        num_blocks: int = 16,
        *,
        role: str = "mixed",
        max_model_len: int = 200,
        max_running: int = 8,
        max_batch_tokens: int = 64,
        prefill_chunk: int = 64,
    ) -> None:
        self.cache_changes: list[CacheChange] = []
        self.pool = BlockPool(num_blocks, self.cache_changes)
        limits = SchedulerLimits(
            max_model_len=max_model_len,
            max_running=max_running,
            max_batch_tokens=max_batch_tokens,
            prefill_chunk=prefill_chunk,
        )
        self.scheduler = Scheduler(self.pool, limits, block_size=BLOCK, role=role, salt=("model",))
        self.runner = FakeRunner(num_blocks, BLOCK)
        self.now = 0.0
        self.outputs: dict[RequestKey, list[int]] = defaultdict(list)
        self.progress: dict[RequestKey, list[Progress]] = defaultdict(list)
        self.finished: dict[RequestKey, str] = {}
        self.failed: dict[RequestKey, SequenceFailed] = {}
        self.reserved: dict[RequestKey, Reserved] = {}
        self.refused: dict[RequestKey, str] = {}
        self.requests: dict[RequestKey, Request] = {}

    # -- asking ------------------------------------------------------------------------------

    def apply(self, command: Command) -> list[Event]:
        self.scheduler.apply(command, self.now)
        events = self.scheduler.take_events()
        self._note(events)
        self.scheduler.check_integrity()
        return events

    def start(self, request: Request, *, hold: bool = False) -> RequestKey:
        self.requests[request.key] = request
        self.apply(Start(request, hold))
        return request.key

    def reserve(self, request: Request) -> Reserved | Refused:
        self.requests[request.key] = request
        [event] = self.apply(ReserveBlocks(request))
        assert isinstance(event, Reserved | Refused)
        return event

    def deliver(self, key: RequestKey, blocks: int | None = None) -> int:
        """The KV of a reservation arrives, at most so many blocks of it. How many there are
        then."""
        reserved, tokens = self.reserved[key], self.tokens(key)
        there = len(reserved.blocks)
        if blocks is not None:
            there = min(there, reserved.cached_blocks + blocks)
        start = min(reserved.cached_blocks * BLOCK, len(tokens))
        end = min(there * BLOCK, len(tokens))
        self.runner.fill(reserved.blocks, tokens, start, end)
        return there

    def admit(self, key: RequestKey, tokens: tuple[int, ...]) -> None:
        self.outputs[key].extend(tokens)
        self.apply(AdmitReserved(key, tokens))

    def park(self, key: RequestKey) -> Progress | None:
        """Stop a decode. The answer, whose one token was told before; None when refused."""
        self.scheduler.apply(Park(key), self.now)
        [event] = self.scheduler.take_events()
        self.scheduler.check_integrity()
        assert event.key == key
        if isinstance(event, Refused):
            assert event.reason == "not_running"
            return None
        assert isinstance(event, Progress)
        assert event.prefill_done
        assert event.hold
        output = self.accepted(key) + self.outputs[key]
        assert (event.position, list(event.tokens)) == (len(output) - 1, output[-1:])
        return event

    def pin(self, request: Request) -> Progress | None:
        """Hold what is cached of a request's tokens; None when refused."""
        self.requests[request.key] = request
        [event] = self.apply(PinCached(request))
        assert event.key == request.key
        return event if isinstance(event, Progress) else None

    def release(self, key: RequestKey) -> None:
        self.apply(Release(key))

    # -- going on ----------------------------------------------------------------------------

    def step(self) -> list[BatchItem]:
        batch = self.scheduler.schedule(self.now)
        self._note(self.scheduler.take_events())
        self.scheduler.check_integrity()
        self.now += 1.0
        if batch:
            result = self.runner.step(batch)
            self._note(self.scheduler.complete(batch, result, self.now))
            self.scheduler.check_integrity()
        return batch

    def run(self, limit: int = 1000) -> None:
        """Until nothing can run."""
        for _ in range(limit):
            if not self.step():
                return
        raise AssertionError(f"still running after {limit} steps")

    # -- looking -----------------------------------------------------------------------------

    def tokens(self, key: RequestKey) -> list[int]:
        return unpack_tokens(self.requests[key].prompt) + self.accepted(key)

    def accepted(self, key: RequestKey) -> list[int]:
        return unpack_tokens(self.requests[key].accepted)

    def counts(self) -> BlockCounts:
        return self.pool.counts()

    def _note(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case Progress():
                    accepted = len(self.accepted(event.key))
                    assert event.key not in self.finished, f"{event.key} went on after its end"
                    assert event.position == accepted + len(self.outputs[event.key])
                    self.outputs[event.key].extend(event.tokens)
                    self.progress[event.key].append(event)
                    if event.finish_reason is not None:
                        self.finished[event.key] = event.finish_reason
                case SequenceFailed():
                    self.failed[event.key] = event
                case Reserved():
                    self.reserved[event.key] = event
                case Refused():
                    self.refused[event.key] = event.reason

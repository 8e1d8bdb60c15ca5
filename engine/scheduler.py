"""Which tokens each step computes. Pure: no torch, no threads, no clock; time is passed in.

The `SequenceTable` keeps sequences and their blocks; this decides who moves. A step is filled
with decodes first, then with chunks of prompts: in which order says `order.py`, how many tokens
`step_budget.py`, and `step_filling.py` puts both together.

Nobody waits while holding: a sequence is admitted when its whole prompt fits, a reservation is
granted whole, so only decodes ever ask for more blocks. When there are none, the running
sequence of the worst rank gives its blocks up and is computed again later. `hold` sequences are
exempt: their blocks are being sent, and they never ask for more.

Nothing starves: ranks are total, kept over preemption and age, the first of the
queue is never overtaken for lack of blocks, and while it waits no reservation is granted; but what
is larger than its share of the pool lets smaller ones pass for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

from baton.engine.backlog import Backlog
from baton.engine.batch import BatchItem, StepResult
from baton.engine.block_pool import BlockPool, IntegrityError, Use
from baton.engine.cache_log import CacheChange
from baton.engine.commands import (
    ChangeRole,
    Command,
    EngineLoad,
    Event,
    Progress,
    Release,
    SequenceFailed,
    Start,
    Unquarantine,
    UseCurve,
)
from baton.engine.handoffs import Handoffs
from baton.engine.limits import ROLES, SchedulerLimits
from baton.engine.order import Order
from baton.engine.plain_steps import PlainSteps
from baton.engine.prefix_cache import PrefixCache
from baton.engine.room import Room
from baton.engine.sequence import Sequence
from baton.engine.sequence_table import RESERVED, RUNNING, SequenceTable
from baton.engine.step_filling import StepFilling
from baton.engine.stopping import finish_reason
from baton.protocol.records import TokenLogprobs


class Scheduler:
    """`salt` names what all KV here depends on (model fingerprint, KV dtype); the request's own
    salt is added."""

    def __init__(
        self,
        pool: BlockPool,
        limits: SchedulerLimits,
        *,
        block_size: int,
        role: str = "mixed",
        salt: tuple[str, ...] = (),
        cache: Callable[[BlockPool, int, tuple[str, ...]], PrefixCache] = PrefixCache,
    ) -> None:
        self.pool = pool
        self.limits = limits
        self.block_size = block_size
        self._cache = cache(pool, block_size, salt)
        self.preemptions = 0
        self.steps = 0
        self._table = SequenceTable(pool, self._cache)
        self._room = Room(pool, limits, block_size, self._table)
        self._filling = StepFilling(
            self._table, self._cache, self._room, limits, block_size, _known(role)
        )
        self._order = Order(self._table, self._cache, self._filling.budgets, limits)
        self._backlog = Backlog(self._table, self._filling.budgets, limits)
        self._plain = PlainSteps(self._table, pool, self._cache, block_size, limits.max_model_len)
        self._handoffs = Handoffs(self._table, self._cache, self._room, limits.max_model_len)
        self._events: list[Event] = []

    # -- commands ----------------------------------------------------------------------------

    def apply(self, command: Command, now: float) -> None:
        """Carry out one command, between steps. `now` is when it was given, in seconds. Answers
        are fetched with `take_events`."""
        match command:
            case Start():
                self._start(command, now)
            case Release():
                self._release(command)
            case Unquarantine():
                self.pool.unquarantine(command.blocks)
            case ChangeRole():
                self._filling.role = _known(command.role)
            case UseCurve():
                self._filling.budgets.curve = command.curve
            case _:
                answer = self._handoffs.apply(command, now)
                if answer is not None:
                    self._events.append(answer)

    def take_events(self) -> list[Event]:
        """Events since the last call, apart from those that `complete` returned."""
        events, self._events = self._events, []
        return events

    def take_cache_changes(self) -> tuple[CacheChange, ...]:
        """See `BlockPool.take_changes`."""
        return self.pool.take_changes()

    @property
    def role(self) -> str:
        return self._filling.role

    def _start(self, command: Start, now: float) -> None:
        key = command.request.key
        if self._table.get(key) is not None:
            return  # asked twice; it is under way
        seq = self._table.create(command.request, now, hold=command.hold)
        self._filling.haste.came(command.request.targets.ttft, now)
        if not seq.tokens:
            self._events.append(SequenceFailed(key, "invalid_value", "the prompt is empty"))
            return
        problem = self._room.misfit(seq)
        if problem is not None:
            self._events.append(SequenceFailed(key, "context_length_exceeded", problem))
            return
        reason = finish_reason(seq, self.limits.max_model_len) if seq.num_output else None
        if reason is None:
            self._table.add_waiting(seq)
            self._order.watch(seq)
            return
        # Earlier attempts delivered all of it; only the word that it ended was lost.
        if seq.hold:
            self._table.add_held(seq)
        self._events.append(
            Progress(key, seq.num_output, (), finish_reason=reason, hold=seq.hold,
                     prefill_done=seq.hold)
        )

    def _release(self, command: Release) -> None:
        seq = self._table.get(command.key)
        if seq is None:
            return
        if seq.state is RESERVED:
            shared = set(command.quarantine).intersection(seq.block_ids[: seq.num_named])
            if shared:
                raise IntegrityError(f"a hand-off writes into shared blocks {sorted(shared)}")
        self._table.forget(seq, frozenset(command.quarantine))

    # -- filling a step ----------------------------------------------------------------------

    def schedule(self, now: float) -> list[BatchItem]:
        """The next step; the blocks that its tokens need are allocated. Empty when nothing can
        run before another command comes. `now` in seconds."""
        self._order.advance(now)
        self._table.blocked = None
        preemptions = self.preemptions
        batch: list[BatchItem] = []
        prefills = self._add_decodes(batch)
        crowded = self.preemptions > preemptions
        if crowded:
            batch = [item for item in batch if item.seq.state is RUNNING]
            prefills = [seq for seq in prefills if seq.state is RUNNING]
        admit = not crowded or not (batch or prefills)
        if prefills or (admit and self._table.waiting):
            self._admitted(self._filling.fill(batch, prefills, now, admit=admit), now)
        if not admit and self._table.waiting:
            self._table.blocked = self._table.waiting[0]
        return batch

    def _add_decodes(self, batch: list[BatchItem]) -> list[Sequence]:
        """The running sequences that have more than one token to compute are returned."""
        block_size = self.block_size
        prefills: list[Sequence] = []
        for seq in self._table.running.copy():
            computed = seq.num_computed
            if seq.state is not RUNNING:
                continue
            if len(seq.tokens) - computed != 1:
                if self._grow(seq):
                    prefills.append(seq)
            elif computed < len(seq.block_ids) * block_size or self._grow(seq):
                batch.append(BatchItem(seq, 1, seq.request.sampling.max_tokens > 0))
        return prefills

    def _admitted(self, sequences: list[Sequence], now: float) -> None:
        for seq in sequences:
            if seq.scheduled_at is None:
                seq.scheduled_at = now
                seq.cached_at_first = min(seq.num_cached, seq.prompt_len)
            if seq.hold and seq.num_cached:
                self._events.append(self._hold_progress(seq))

    def _grow(self, seq: Sequence) -> bool:
        """Blocks for all tokens of a running sequence, preempting what ranks worse. False when
        that was itself, or when it is too large for the pool and fails."""
        missing = self._room.blocks_for(len(seq.tokens)) - len(seq.block_ids)
        if missing <= 0:
            return True
        problem = self._room.misfit(seq)
        if problem is not None:
            self._events.append(SequenceFailed(seq.key, "context_length_exceeded", problem))
            self._table.forget(seq)
            return False
        while (blocks := self.pool.allocate(missing, Use.ACTIVE)) is None:
            victim = next(other for other in reversed(self._table.running) if not other.hold)
            self._table.preempt(victim)
            self.preemptions += 1
            if victim is seq:
                return False
        seq.block_ids.extend(blocks)
        return True

    # -- after a step ------------------------------------------------------------------------

    def complete(self, batch: Seq[BatchItem], result: StepResult, now: float) -> list[Event]:
        """Take in what the runner computed for `batch`, at time `now`, in seconds."""
        self.steps += 1
        events: list[Event] = []
        block_size = self.block_size
        for item, token, logprobs, prompt_logprobs in zip(
            batch, result.tokens, result.logprobs, result.prompt_logprobs, strict=True
        ):
            seq = item.seq
            if seq.state is not RUNNING:
                continue  # released while the step ran
            seq.num_computed += item.num_tokens
            if seq.num_computed // block_size > seq.num_named:
                self._cache.register(seq)
            if seq.prompt_logprobs is not None and prompt_logprobs is not None:
                seq.prompt_logprobs.extend(prompt_logprobs)
            if seq.num_computed < len(seq.tokens):
                if seq.hold:
                    events.append(self._hold_progress(seq))
            elif not item.sample:
                events.append(self._ended(seq, (), None, "length", now))
            elif token is None:
                raise ValueError(f"the runner drew no token for {seq.key}")
            else:
                seq.tokens.append(token)
                reason = finish_reason(seq, self.limits.max_model_len)
                told = None if logprobs is None else (logprobs,)
                if seq.reported and reason is None:
                    position = len(seq.tokens) - seq.prompt_len - 1
                    events.append(Progress(seq.request.key, position, (token,), told))
                else:
                    events.append(self._ended(seq, (token,), told, reason, now))
        return events

    # -- many steps at once ------------------------------------------------------------------

    def plain_steps(self, batch: Seq[BatchItem], limit: int) -> tuple[int, float]:
        """How many steps from that of `batch` on only bring a token to each, until a command comes,
        at most `limit`; and the time from which on a step may be another all the same."""
        return self._plain.most(batch, limit), self._order.next_look

    def steps_to_cache_change(self, batch: Seq[BatchItem]) -> int:
        """Of plain ones, until there is something to take with `take_cache_changes`."""
        return self._plain.changes_cache(batch)

    def complete_plain(
        self, batch: Seq[BatchItem], tokens: Seq[list[int]], *, goes_on: bool
    ) -> None:
        """As `complete` for each of so many plain steps as there are `tokens` for each sequence,
        with `schedule` between them, and behind them if it `goes_on`. There are no events."""
        self.steps += len(tokens[0])
        self._plain.take(batch, tokens, goes_on=goes_on)

    def abandon(self, batch: Seq[BatchItem], code: str, message: str) -> list[Event]:
        """The step of `batch` failed: so do its sequences. Their blocks are given back; what
        was computed in earlier steps stays cached. Those of a prompt that is handed off may be
        under a send, so they are held until Release, which always follows."""
        events: list[Event] = []
        for item in batch:
            if item.seq.state is RUNNING:
                give_up = self._table.hold if item.seq.hold else self._table.forget
                give_up(item.seq)
                events.append(SequenceFailed(item.seq.key, code, message))
        return events

    def _ended(
        self,
        seq: Sequence,
        tokens: tuple[int, ...],
        logprobs: tuple[TokenLogprobs, ...] | None,
        reason: str | None,
        now: float,
    ) -> Progress:
        """The first or the last token of a sequence, or the end of one that samples none: what
        is told only once, and who has the blocks from here on."""
        cached: int | None = None
        phases: dict[str, float] | None = None
        prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
        if not seq.reported:
            seq.reported = True
            seq.stream_from(now)
            cached = seq.cached_at_first
            scheduled = now if seq.scheduled_at is None else seq.scheduled_at
            phases = {"queue": scheduled - seq.submitted_at, "prefill": now - scheduled}
            if seq.prompt_logprobs is not None:
                prompt_logprobs = (None, *seq.prompt_logprobs[: seq.prompt_len - 1])
                seq.prompt_logprobs = None
        blocks = tuple(seq.block_ids) if seq.hold else ()
        if seq.hold:
            self._table.hold(seq)
        elif reason is not None:
            self._table.forget(seq)
        return Progress(
            key=seq.key,
            position=seq.num_output - len(tokens),
            tokens=tokens,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            finish_reason=reason,
            cached_tokens=cached,
            phases=phases,
            hold=seq.hold,
            blocks=blocks,
            ready_blocks=len(blocks),
            prefill_done=seq.hold,
        )

    def _hold_progress(self, seq: Sequence) -> Progress:
        return Progress(
            seq.key,
            seq.num_output,
            (),
            hold=True,
            blocks=tuple(seq.block_ids),
            ready_blocks=seq.num_computed // self.block_size,
        )

    # -- looking -----------------------------------------------------------------------------

    def load(self) -> EngineLoad:
        return self._backlog.load(
            self.role, self.pool.counts(), steps=self.steps, preemptions=self.preemptions
        )

    def check_integrity(self) -> None:
        """Raises IntegrityError unless pool, queues and sequences tell one story."""
        self._table.check_integrity()


def _known(role: str) -> str:
    if role not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
    return role

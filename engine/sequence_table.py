"""Every sequence of a worker: in which queue it is and which blocks it has. Pure.

Each transition of `SequenceState` is one method here, and moves the sequence's blocks with it:

    waiting    no blocks; sorted by rank
    running    blocks ACTIVE; sorted by rank
    reserved   blocks HELD: the KV of a hand-off is on its way in
    held       blocks HELD: KV of a finished (or failed) prefill, a parked decode or the cache on
               its way out
    gone       no blocks
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from itertools import count

from baton.engine.block_pool import BlockPool, IntegrityError, Use
from baton.engine.prefix_cache import PrefixCache
from baton.engine.sequence import Rank, Sequence, SequenceState
from baton.protocol.curves import attention_pairs
from baton.protocol.ids import RequestKey
from baton.protocol.records import Request

WAITING, RUNNING = SequenceState.WAITING, SequenceState.RUNNING
HELD, RESERVED = SequenceState.HELD, SequenceState.RESERVED
GONE = SequenceState.GONE

UNDATED = 30.0
"""What has no target takes its place among those that have one as if it were due so many seconds
after it came."""

_USE = {RUNNING: Use.ACTIVE, HELD: Use.HELD, RESERVED: Use.HELD}


class SequenceTable:
    """`waiting` and `running` may be read, and are changed only by the methods."""

    def __init__(self, pool: BlockPool, cache: PrefixCache) -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_reserved = 0
        self.num_loans = 0
        """Of these, the ones that nothing will run on."""
        self.waiting_tokens = 0
        self.waiting_pairs = 0
        """(token, context token) pairs of these."""
        self.blocked: Sequence | None = None
        """The first of `waiting` when it lacks blocks; the scheduler says so at every step."""
        self._pool = pool
        self._cache = cache
        self._sequences: dict[RequestKey, Sequence] = {}
        self._arrivals = count()

    def get(self, key: RequestKey) -> Sequence | None:
        return self._sequences.get(key)

    # -- in ----------------------------------------------------------------------------------

    def create(self, request: Request, now: float, *, hold: bool = False) -> Sequence:
        """A new sequence, which is in the table with one of the `add_` methods. `now`: in
        seconds, when it was asked for."""
        seq = Sequence.from_request(request, hold=hold)
        seq.root = self._cache.root(request.cache_salt)
        if request.due_in is not None:
            seq.due = now + request.due_in
        undated = seq.due is None
        due = now + UNDATED if seq.due is None else seq.due
        behind = undated and request.lane != "interactive"
        seq.rank = (True, behind, -request.priority, False, due, next(self._arrivals))
        seq.submitted_at = now
        if request.sampling.prompt_logprobs is not None and not request.accepted:
            seq.prompt_logprobs = []
        return seq

    def add_waiting(self, seq: Sequence) -> None:
        self._sequences[seq.key] = seq
        self._enqueue(seq)

    def add_reserved(self, seq: Sequence, matched: list[int], fresh: int, *, loan: bool) -> None:
        self._give_blocks(seq, matched, fresh, Use.HELD)
        self._sequences[seq.key] = seq
        seq.state = RESERVED
        seq.loan = loan
        self.num_reserved += 1
        self.num_loans += loan

    def add_held(self, seq: Sequence) -> None:
        """Held from the start, with no blocks: there was nothing left to compute."""
        self._sequences[seq.key] = seq
        seq.state = HELD

    def add_pinned(self, seq: Sequence, matched: list[int]) -> None:
        """Held from the start on `matched` blocks, which hold its first tokens."""
        self._give_blocks(seq, matched, 0, Use.HELD)
        self._sequences[seq.key] = seq
        seq.state = HELD
        seq.pinned = True

    # -- between -----------------------------------------------------------------------------

    def admit_waiting(self, seq: Sequence, matched: list[int], fresh: int) -> None:
        """Run it on `matched` blocks, which hold its first tokens, and `fresh` ones."""
        self.waiting.remove(seq)
        self._count_waiting(seq, -1)
        self._give_blocks(seq, matched, fresh, Use.ACTIVE)
        self._cache.announce(seq)
        self._run(seq)

    def admit_reserved(self, seq: Sequence) -> None:
        """Run it: the KV of all its tokens is there, and now others may use it too."""
        self.num_reserved -= 1
        self._pool.change_use(seq.block_ids, Use.HELD, Use.ACTIVE)
        seq.num_computed = len(seq.tokens)
        self._cache.register(seq)
        self._run(seq)

    def hold(self, seq: Sequence) -> None:
        """A running sequence stops and keeps its blocks."""
        self.running.remove(seq)
        self._cache.withdraw(seq)
        self._pool.change_use(seq.block_ids, Use.ACTIVE, Use.HELD)
        seq.state = HELD

    def preempt(self, seq: Sequence) -> None:
        """A running sequence goes back to the queue with its tokens. Its full blocks stay cached
        while nobody needs their room."""
        self.running.remove(seq)
        self._take_blocks(seq, Use.ACTIVE, frozenset())
        if seq.prompt_logprobs is not None:
            seq.prompt_logprobs = []
        self._enqueue(seq)

    def change_rank(self, seq: Sequence, rank: Rank) -> None:
        """One that waits or runs takes another place in its queue."""
        queue = self.waiting if seq.state is WAITING else self.running
        queue.remove(seq)
        seq.rank = rank
        insort(queue, seq, key=_rank)

    # -- out ---------------------------------------------------------------------------------

    def adopt(self, seq: Sequence, num_blocks: int) -> None:
        """A reservation is over. The KV of its first `num_blocks` blocks is there: those that are
        full stay cached for others."""
        arrived = self._cache.tokens_in(seq.block_ids[:num_blocks])
        seq.num_computed = max(seq.num_computed, min(arrived, len(seq.tokens)))
        self._cache.register(seq)
        self.forget(seq)

    def forget(self, seq: Sequence, quarantine: frozenset[int] = frozenset()) -> None:
        """The one way out, from every state. Of its blocks, those in `quarantine` stay out of
        use until the pool hears that they are safe."""
        del self._sequences[seq.key]
        if seq.state is WAITING:
            self.waiting.remove(seq)
            self._count_waiting(seq, -1)
        else:
            if seq.state is RUNNING:
                self.running.remove(seq)
            elif seq.state is RESERVED:
                self.num_reserved -= 1
                self.num_loans -= seq.loan
            self._take_blocks(seq, _USE[seq.state], quarantine)
        seq.state = GONE
        if self.blocked is seq:
            self.blocked = None

    # -- inside ------------------------------------------------------------------------------

    def _enqueue(self, seq: Sequence) -> None:
        seq.state = WAITING
        self._count_waiting(seq, 1)
        insort(self.waiting, seq, key=_rank)

    def _count_waiting(self, seq: Sequence, sign: int) -> None:
        length = len(seq.tokens)
        self.waiting_tokens += sign * length
        self.waiting_pairs += sign * attention_pairs(length, 0)

    def _run(self, seq: Sequence) -> None:
        seq.state = RUNNING
        seq.awaits = None
        insort(self.running, seq, key=_rank)

    def _give_blocks(self, seq: Sequence, matched: list[int], fresh: int, use: Use) -> None:
        # What it computed itself before it was preempted, or its other choices do, proves nothing.
        again = seq.scheduled_at is None and seq.request.choice == 0
        blocks = self._pool.acquire(matched, fresh, use, again=again)
        if blocks is None:
            raise IntegrityError(f"{seq.key} is given {fresh} blocks that are not there")
        seq.block_ids = blocks
        seq.num_named = len(matched)
        seq.num_cached = seq.num_computed = self._cache.tokens_in(matched)

    def _take_blocks(self, seq: Sequence, use: Use, quarantine: frozenset[int]) -> None:
        self._cache.withdraw(seq)
        if quarantine:
            self._pool.quarantine([b for b in seq.block_ids if b in quarantine], use)
            self._pool.release([b for b in seq.block_ids if b not in quarantine], use)
        else:
            self._pool.release(seq.block_ids, use)
        seq.block_ids = []
        seq.num_named = seq.num_cached = seq.num_computed = 0

    # -- checking ----------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Raises IntegrityError unless pool, queues and sequences tell one story."""
        self._pool.check_integrity()
        self._cache.check_integrity(self.running)
        uses: dict[Use, Counter[int]] = {Use.ACTIVE: Counter(), Use.HELD: Counter()}
        states: Counter[SequenceState] = Counter()
        for seq in self._sequences.values():
            states[seq.state] += 1
            if seq.state in _USE:
                uses[_USE[seq.state]].update(seq.block_ids)
            elif seq.block_ids:
                raise IntegrityError(f"{seq.key} is {seq.state.value} and has blocks")
        for use, mine in uses.items():
            for block in range(self._pool.num_blocks):
                if self._pool.uses(block, use) != mine[block]:
                    raise IntegrityError(
                        f"block {block} has {self._pool.uses(block, use)} {use.name} uses, "
                        f"sequences have {mine[block]}"
                    )
        queues = {WAITING: len(self.waiting), RUNNING: len(self.running),
                  RESERVED: self.num_reserved, GONE: 0}
        loans = sum(seq.loan for seq in self._sequences.values() if seq.state is RESERVED)
        if loans != self.num_loans:
            raise IntegrityError(f"there are {loans} loans, {self.num_loans} were counted")
        if any(states[state] != number for state, number in queues.items()):
            raise IntegrityError(f"sequences are {dict(states)}, the queues say {queues}")
        for queue in (self.waiting, self.running):
            if queue != sorted(queue, key=_rank):
                raise IntegrityError("a queue is out of order")
        if self.waiting_tokens != sum(len(seq.tokens) for seq in self.waiting):
            raise IntegrityError(f"{self.waiting_tokens} waiting tokens were counted")
        if self.waiting_pairs != sum(attention_pairs(len(s.tokens), 0) for s in self.waiting):
            raise IntegrityError(f"{self.waiting_pairs} waiting pairs were counted")


def _rank(seq: Sequence) -> Rank:
    return seq.rank

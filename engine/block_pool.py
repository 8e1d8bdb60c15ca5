"""The KV blocks of one worker: who uses each of them, and what the prefix cache finds.

Pure bookkeeping over block numbers; the memory itself belongs to the model runner. Used only from
the engine thread. A block is in exactly one state, which follows from what is known of it, the
first line that applies:

    ACTIVE       a running sequence reads or writes it
    HELD         a reservation or a lease keeps it (blocks of a hand-off, either side)
    QUARANTINED  an operation that nobody waits for any more may still touch it
    CACHED       nobody uses it, its content has a name (a hash), so it may serve another prompt
    FREE         nobody uses it, its content is void

Uses are counted, so a block that two sequences share is given up by the second. Content is named
with `register`, after the whole block was computed or has arrived; a block that is given up
unnamed becomes FREE and can never be found, which keeps torn hand-offs out of the cache.

Which CACHED block is evicted says `eviction.py`. Deeper blocks of a chain go before their parents:
chains are given up whole and pinned from their start, so it suffices to queue them deepest first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import IntEnum
from heapq import heapify, heappop, heappush

from baton.engine.cache_log import FIRST, CacheChange
from baton.engine.eviction import EvictionQueue
from baton.protocol.records import BlockCounts


class Use(IntEnum):
    """What a block is used for, strongest first. The values index `BlockPool._uses`."""

    ACTIVE = 0
    HELD = 1
    QUARANTINED = 2


class BlockState(IntEnum):
    ACTIVE = 0
    HELD = 1
    QUARANTINED = 2
    CACHED = 3
    FREE = 4


# An attribute of an enum costs as much as the rest of a line.
_ACTIVE, _HELD, _QUARANTINED, _CACHED, _FREE = BlockState
_STATE_OF = dict(zip(Use, BlockState, strict=False))


class IntegrityError(AssertionError):
    """The bookkeeping contradicts itself. The message says where."""


class BlockPool:
    """`num_blocks` blocks, numbered from 0, all FREE at first. `changes`: where to note every name
    that can be found from now on, with its parent's, or cannot any more, with None."""

    def __init__(self, num_blocks: int, changes: list[CacheChange] | None = None) -> None:
        if num_blocks < 1:
            raise ValueError(f"a pool needs at least one block, got {num_blocks}")
        self.num_blocks = num_blocks
        self._uses: tuple[list[int], ...] = tuple([0] * num_blocks for _ in Use)
        self._state: list[BlockState] = [BlockState.FREE] * num_blocks
        self._counts = [0] * len(BlockState)
        self._counts[BlockState.FREE] = num_blocks
        self._free: list[int] = []  # a heap: lowest numbers first, so runs stay runs
        self._unused = 0  # from this one on all are FREE, and not in the heap
        self._evictable = EvictionQueue(num_blocks)  # CACHED blocks
        self._name: list[bytes | None] = [None] * num_blocks
        self._parent: list[bytes] = [FIRST] * num_blocks  # of what has a name
        self._by_name: dict[bytes, int] = {}
        self._changes = changes

    # -- looking -----------------------------------------------------------------------------

    @property
    def available(self) -> int:
        """Blocks that can be allocated now: FREE and CACHED."""
        return self._counts[BlockState.FREE] + self._counts[BlockState.CACHED]

    def counts(self) -> BlockCounts:
        counts = self._counts
        return BlockCounts(
            free=counts[BlockState.FREE],
            cached=counts[BlockState.CACHED],
            active=counts[BlockState.ACTIVE],
            held=counts[BlockState.HELD],
            quarantined=counts[BlockState.QUARANTINED],
        )

    def state(self, block: int) -> BlockState:
        return self._state[block]

    def uses(self, block: int, use: Use) -> int:
        return self._uses[use][block]

    def match(self, hashes: Sequence[bytes]) -> list[int]:
        """Blocks that hold the longest known prefix of a chain, in its order. Pins nothing."""
        found: list[int] = []
        for name in hashes:
            block = self._by_name.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def fits(self, matched: Sequence[int], fresh: int, spare: int = 0) -> bool:
        """Whether `acquire` would succeed and leave `spare` blocks available."""
        state = self._state
        taken = sum([state[block] is _CACHED for block in matched])
        return fresh + taken + spare <= self.available

    # -- taking ------------------------------------------------------------------------------

    def acquire(
        self, matched: Sequence[int], fresh: int, use: Use, *, again: bool = True
    ) -> list[int] | None:
        """Pin `matched` (from `match`) and allocate `fresh` more: all of it, or None and nothing
        has changed. The result is `matched`, then the new blocks in ascending order. `again`: see
        `pin`."""
        if not self.fits(matched, fresh):
            return None
        self.pin(matched, use, again=again)
        return [*matched, *self._take(fresh, use)]

    def allocate(self, count: int, use: Use) -> list[int] | None:
        """`count` blocks with void content in ascending order, evicting what must be; or None."""
        if count > self.available:
            return None
        return self._take(count, use)

    def pin(self, blocks: Iterable[int], use: Use, *, again: bool = True) -> None:
        """One more use of each; a CACHED block leaves the queue for eviction. `again`: by
        somebody else than before, which makes it worth more."""
        uses, queue = self._uses[use], self._evictable
        for block in blocks:
            uses[block] += 1
            if uses[block] == 1:
                self._settle(block)
            if again:
                queue.used_again(block)

    def change_use(self, blocks: Iterable[int], old: Use, new: Use) -> None:
        """Turn one use of each block into another kind; at no time is it unused."""
        gain, lose = self._uses[new], self._uses[old]
        for block in blocks:
            gain[block] += 1
            if lose[block] < 1:
                raise _no_use(block, old)
            lose[block] -= 1
            self._settle(block)

    # -- giving up ---------------------------------------------------------------------------

    def release(self, blocks: Sequence[int], use: Use) -> None:
        """One use less of each of a sequence's `blocks`, given in the order of its tokens. What
        nobody uses any more becomes CACHED if its content has a name, else FREE."""
        again, uses, queue = False, self._uses[use], self._evictable
        for block in reversed(blocks):  # deepest first: see the module's docstring
            left = uses[block] - 1
            if left < 0:
                raise _no_use(block, use)
            uses[block] = left
            if again:  # a block that was computed twice is worth what those behind it are
                queue.used_again(block)
            else:
                again = queue.is_used_again(block)
            if not left:
                self._settle(block)

    def quarantine(self, blocks: Iterable[int], use: Use) -> None:
        """Instead of `release`, for blocks that an unfinished operation may still touch. A block
        that others use too stays theirs and is QUARANTINED when they are done."""
        self.change_use(blocks, use, Use.QUARANTINED)

    def unquarantine(self, blocks: Iterable[int]) -> None:
        """The operation has ended. Blocks that are not quarantined are left as they are."""
        for block in blocks:
            if self._uses[Use.QUARANTINED][block] > 0:
                self._uses[Use.QUARANTINED][block] -= 1
                self._settle(block)

    # -- naming ------------------------------------------------------------------------------

    def register(self, block: int, name: bytes, parent: bytes = FIRST) -> None:
        """Say what the content of a used block is, and of the one before it in its chain. If
        another block has the same content, that one stays the one that is found; this one replaces
        it should it be evicted meanwhile."""
        self.register_run((block,), (name,), parent)

    def register_run(
        self, blocks: Sequence[int], names: Sequence[bytes], parent: bytes = FIRST
    ) -> None:
        """The same for blocks that follow one another in a chain, behind `parent`."""
        states, known, parents = self._state, self._name, self._parent
        for block, name in zip(blocks, names, strict=True):
            state = states[block]
            if state is not _ACTIVE and state is not _HELD:
                raise IntegrityError(f"block {block} is {state.name} and gets a name")
            if known[block] != name:
                self._evictable.renamed(block)
                known[block] = name
            parents[block] = parent
            if name not in self._by_name:
                self._keeper(block, name)
            parent = name

    def take_changes(self) -> tuple[CacheChange, ...]:
        """What was noted since the last time, in its order."""
        if not self._changes:
            return ()
        taken = tuple(self._changes)
        self._changes.clear()
        return taken

    # -- inside ------------------------------------------------------------------------------

    def _take(self, count: int, use: Use) -> list[int]:
        free = min(count, self._counts[_FREE])
        given_up = min(free, len(self._free))
        taken = [heappop(self._free) for _ in range(given_up)]
        first, self._unused = self._unused, self._unused + free - given_up
        taken.extend(range(first, self._unused))
        for _ in range(count - free):
            block = self._evictable.pop()
            self._forget_name(block)
            taken.append(block)
        uses, states, state = self._uses[use], self._state, _STATE_OF[use]
        for block in taken:
            uses[block] = 1
            states[block] = state
        self._counts[_FREE] -= free
        self._counts[_CACHED] -= count - free
        self._counts[state] += count
        taken.sort()
        return taken

    def _settle(self, block: int) -> None:
        """Bring state, counts and queues of a block in line with its uses and name."""
        old, new = self._state[block], self._used_state(block)
        if new is None:
            new = self._unused_state(block)
        if new is old:
            return
        self._state[block] = new
        self._counts[old] -= 1
        self._counts[new] += 1
        if old is _CACHED:
            self._evictable.remove(block)
        if new is _CACHED:
            self._evictable.add(block)
        elif new is _FREE:
            heappush(self._free, block)

    def _used_state(self, block: int) -> BlockState | None:
        active, held, quarantined = self._uses  # not in a loop: this runs for every block
        if active[block] > 0:
            return _ACTIVE
        if held[block] > 0:
            return _HELD
        return _QUARANTINED if quarantined[block] > 0 else None

    def _unused_state(self, block: int) -> BlockState:
        """CACHED for the one block that stands for its content, else FREE, with no name."""
        name = self._name[block]
        if name is None:
            return _FREE
        keeper = self._keeper(block, name)
        if keeper == block:
            return _CACHED
        # A duplicate goes. The keeper counts as used just now, and is worth as much, else it would
        # be evicted before the deeper blocks of its chain that were given up with the duplicate.
        queued = self._state[keeper] is _CACHED
        if queued:
            self._evictable.remove(keeper)
        if self._evictable.is_used_again(block):
            self._evictable.used_again(keeper)
        if queued:
            self._evictable.add(keeper)
        self._name[block] = None
        return _FREE

    def _keeper(self, block: int, name: bytes) -> int:
        """The block that is found under this block's name: this one if there is no other."""
        keeper = self._by_name.get(name)
        if keeper is None:
            keeper = self._by_name[name] = block
            if self._changes is not None:
                self._changes.append((name, self._parent[block]))
        return keeper

    def _forget_name(self, block: int) -> None:
        name = self._name[block]
        if name is not None:
            del self._by_name[name]
            self._name[block] = None
            if self._changes is not None:
                self._changes.append((name, None))

    # -- checking ----------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Recompute everything from uses and names. Raises IntegrityError with what is wrong."""
        problems: list[str] = []
        expected: Counter[BlockState] = Counter()
        for block in range(self.num_blocks):
            state, name = self._state[block], self._name[block]
            uses = [self._uses[use][block] for use in Use]
            if min(uses) < 0:
                problems.append(f"block {block} has uses {uses}")
            right = self._used_state(block)
            if right is None:
                found = name is not None and self._by_name.get(name) == block
                right = BlockState.CACHED if found else BlockState.FREE
            if state is not right:
                problems.append(f"block {block} is {state.name}, should be {right.name}")
            if state is BlockState.FREE and name is not None:
                problems.append(f"block {block} is FREE and has a name")
            if (state is BlockState.CACHED) != (block in self._evictable):
                problems.append(f"block {block} is {state.name}, the queue for eviction disagrees")
            expected[state] += 1
        for name, block in self._by_name.items():
            if self._name[block] != name:
                problems.append(f"{name.hex()} is said to be in block {block}, which differs")
        free = [*sorted(self._free), *range(self._unused, self.num_blocks)]
        if free != [b for b in range(self.num_blocks) if self._state[b] is BlockState.FREE]:
            problems.append(f"the free list {free} is not the FREE blocks")
        for state in BlockState:
            if self._counts[state] != expected[state]:
                problems.append(
                    f"{expected[state]} blocks are {state.name}, counted {self._counts[state]}"
                )
        if problems:
            raise IntegrityError("; ".join(problems))

    def clear_cache(self) -> None:
        """Forget all content that nobody uses (after a change that voids it, and in tests)."""
        self._counts[BlockState.FREE] += len(self._evictable)
        self._counts[BlockState.CACHED] = 0
        for block in self._evictable.clear():
            self._forget_name(block)
            self._state[block] = BlockState.FREE
            self._free.append(block)
        heapify(self._free)


def _no_use(block: int, use: Use) -> IntegrityError:
    return IntegrityError(f"block {block} has no {use.name} use to give up")

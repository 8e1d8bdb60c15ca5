"""Which scheme is fastest between one pair of workers: tried out when their session opens.

The receiver decides, for it grants. It posts receives into scratch memory and sends a `Probe`
that names them; the sender sends the rounds one after the other; the receiver takes the time of
each, from its first message, of zero bytes, to its last. The first round only warms up. No block
of a pool is touched, and it takes a few MiB and some milliseconds.

| candidate | what for |
|---|---|
| pulled messages of 16 MiB | the rule where the receiver is connected with the sender for it |
| messages of 1 MiB | the rule elsewhere: nothing else is chosen unless it is clearly faster |
| messages of 4 MiB | many small blocks |
| one block a message | large blocks |
| staged messages of 1 MiB | where the transport does badly with scattered memory |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from baton.kernels.shared_memory import shared_bytes
from baton.kvtransfer.memory import HostBlocks
from baton.kvtransfer.mover import BlockMover, OnDone
from baton.kvtransfer.staging import LARGE_MESSAGE, PULLED_MESSAGE, STAGING_BYTES
from baton.kvtransfer.transport import Endpoint, Inbox, Operation, Transport
from baton.protocol.records import DIRECT, Probe, ProbeRound, Record, Scheme

log = logging.getLogger(__name__)

SMALL_MESSAGE = 1 << 20
SCRATCH_NEAR = 4 << 20
SCRATCH_FAR = 1 << 20
"""Bytes of one round, to a peer on this host and to one elsewhere."""
MAX_SCRATCH = 64 << 20
"""A sender refuses to probe with more."""
CLEARLY = 1.25
"""So many times faster must a candidate be than those before it."""
FAR_MORE = 3.0
"""The same for one that is not pulled, against one that is."""
FASTEST = 200e9
"""Bytes per second that no copy between two processes' memory is faster than."""


def blocks_in(message_bytes: int, block_bytes: int) -> int:
    return max(1, message_bytes // block_bytes)


def rule(
    block_bytes: int, *, scatters: bool, pulls: bool = False, converts: bool = False
) -> Scheme:
    """What is taken for good until a probe knows better. `scatters`: the receiver's memory can be
    written in several places by one message. `pulls`: its inbox does. `converts`: the sender lays
    messages out in a staging buffer."""
    if scatters and pulls:
        size = STAGING_BYTES if converts else PULLED_MESSAGE
        return Scheme(blocks_in(size, block_bytes), pulled=True)
    if scatters:
        return Scheme(blocks_in(SMALL_MESSAGE, block_bytes), staged=False)
    if block_bytes >= 128 << 10:
        return DIRECT
    return Scheme(blocks_in(STAGING_BYTES, block_bytes), staged=True)


def candidates(block_bytes: int, scratch: int, *, pulls: bool = False) -> list[Scheme]:
    """In order of preference."""
    wanted = [
        *([rule(block_bytes, scatters=True, pulls=True)] if pulls else ()),
        rule(block_bytes, scatters=True),
        Scheme(blocks_in(min(LARGE_MESSAGE, scratch), block_bytes), staged=False),
        DIRECT,
        Scheme(blocks_in(STAGING_BYTES, block_bytes), staged=True),
    ]
    return list(dict.fromkeys(wanted))


def choose(rates: Sequence[tuple[Scheme, float]]) -> Scheme:
    """The fastest, unless one before it is nearly as fast."""
    chosen, best = rates[0]
    for scheme, rate in rates[1:]:
        # A second copy is not made up for by what a busy machine does to one of few milliseconds.
        needed = FAR_MORE if chosen.pulled and not scheme.pulled else CLEARLY
        if rate > needed * best:
            chosen, best = scheme, rate
    return chosen


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`rates` in bytes per second, in the order of the candidates."""

    chosen: Scheme
    rates: tuple[tuple[Scheme, float], ...]


def _scratch(block_bytes: int, num_bytes: int, *, shared: bool = False) -> HostBlocks:
    count = max(1, num_bytes // block_bytes)
    size = count * block_bytes
    memory = shared_bytes(size) if shared else np.empty(size, np.uint8)
    memory.fill(1)
    return HostBlocks(memory.reshape(count, block_bytes))


@dataclass
class _Round:
    left: int
    begun: float = 0.0
    ended: float = 0.0

    def begin(self, operation: Operation) -> None:
        self.begun = time.perf_counter()


@dataclass
class ProbeReceiver:
    """One probe, at the receiver. If its sender dies it never reports, and UCX keeps the scratch
    memory."""

    transport: Transport
    issue_tags: Callable[[int], int]
    block_bytes: int
    on_result: Callable[[ProbeResult], None]
    inbox: Inbox | None = None
    _rounds: list[_Round] = field(default_factory=list)

    def start(self, *, same_host: bool) -> Record:
        """Post all receives. The sender is to be told what comes back."""
        scratch = SCRATCH_NEAR if same_host else SCRATCH_FAR
        inbox = self.inbox or self.transport
        tried = candidates(self.block_bytes, scratch, pulls=inbox.pulls)
        memory = _scratch(self.block_bytes, scratch)
        mover = BlockMover(self.transport, memory)
        self._tried = tried
        self._num_bytes = len(memory) * self.block_bytes
        self._failed = False
        rounds = [
            ProbeRound(scheme, -(-len(memory) // scheme.blocks_per_message))
            for scheme in (tried[0], *tried)
        ]
        first_tag = tag = self.issue_tags(sum(each.messages + 1 for each in rounds))
        for each in rounds:
            state = _Round(each.messages)
            self._rounds.append(state)
            # By the way of what follows, so that it does not come after it.
            post = inbox.take if each.scheme.pulled else inbox.post_receive
            post(bytearray(1), tag, state.begin)
            for index, blocks in enumerate(_messages(each, len(memory))):
                done = self._done(state)
                mover.receive(blocks, tag + 1 + index, each.scheme, done, inbox=inbox)
            tag += each.messages + 1
        return Probe(
            first_tag=first_tag,
            block_bytes=self.block_bytes,
            num_blocks=len(memory),
            rounds=tuple(rounds),
        )

    def _done(self, state: _Round) -> OnDone:
        def done(error: Exception | None) -> None:
            self._failed |= error is not None
            state.left -= 1
            state.ended = time.perf_counter()
            if not any(each.left for each in self._rounds) and not self._failed:
                self._report()

        return done

    def _report(self) -> None:
        rates = tuple(
            (scheme, self._num_bytes / self._seconds(before, state))
            for scheme, before, state in zip(
                self._tried, self._rounds, self._rounds[1:], strict=False
            )
        )
        self.on_result(ProbeResult(choose(rates), rates))

    def _seconds(self, before: _Round, state: _Round) -> float:
        """A receiver that stood still meanwhile finds all of a round there at once. Then it began
        when the one before it had ended, which is no later than it did."""
        seconds = state.ended - state.begun
        if seconds * FASTEST < self._num_bytes:
            seconds = state.ended - before.ended
        return max(seconds, self._num_bytes / FASTEST)


def _messages(each: ProbeRound, num_blocks: int) -> list[range]:
    step = each.scheme.blocks_per_message
    return [range(first, min(first + step, num_blocks)) for first in range(0, num_blocks, step)]


def answer_probe(probe: Probe, endpoint: Endpoint, transport: Transport) -> None:
    """The sender's part. Raises ValueError for a probe that makes no sense. Stops at an error,
    which the hand-offs on this endpoint will meet as well."""
    size = probe.block_bytes * probe.num_blocks
    steps = [each.scheme.blocks_per_message for each in probe.rounds]
    if not 0 < size <= MAX_SCRATCH or probe.block_bytes < 1 or min(steps, default=0) < 1:
        raise ValueError(f"a probe of {probe.num_blocks} blocks of {probe.block_bytes} bytes")
    shared = any(each.scheme.pulled for each in probe.rounds)
    memory = _scratch(probe.block_bytes, size, shared=shared)
    mover = BlockMover(transport, memory)
    buffers = mover.send_buffers(probe.block_bytes)
    rounds = iter(probe.rounds)
    tag = probe.first_tag

    def next_round() -> None:
        nonlocal tag
        each = next(rounds, None)
        if each is None:
            return
        messages = _messages(each, probe.num_blocks)
        left = len(messages)

        def done(error: Exception | None) -> None:
            nonlocal left
            if error is not None:
                log.warning("probing stopped: %s", error)
                return
            left -= 1
            if not left:
                next_round()

        # Where the receiver takes by itself, it is what has bytes that goes over the transport.
        begin = b"." if endpoint.offers and not each.scheme.pulled else b""
        endpoint.post_send(begin, tag, lambda operation: None)
        for index, blocks in enumerate(messages):
            mover.send(endpoint, blocks, tag + 1 + index, each.scheme, done, buffers=buffers)
        tag += each.messages + 1

    next_round()

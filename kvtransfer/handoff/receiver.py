"""The receiving side of one hand-off. Pure.

Owns: the reservation of the request's blocks until they are admitted or adopted (then the
engine's) or released. A block into which the transport may still write is given back only when
that receive is over or the sender's process is gone; until then it is quarantined. Receives that
land in buffers of the transport (staged) are detached from the blocks instead.

    RESERVING  asked the pool                       deadline: creation + lease
    RESERVED   no session with the sender           deadline: reservation + SESSION_GRACE
    GRANTED    receives posted, Grant told          deadline: progress + lease
    VERIFYING  all arrived; checksums are compared  deadline: progress + lease
    ADMITTED   the engine has the blocks
    DRAINING   failed; receives are not over        no deadline: only their end, or the sender's
    DONE       owns nothing
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from baton.kvtransfer.handoff.actions import (
    Abandon,
    Action,
    Admit,
    AdoptBlocks,
    Detach,
    Ended,
    EndQuarantine,
    PostReceive,
    ReleaseBlocks,
    Tell,
    Verify,
)
from baton.kvtransfer.handoff.messages import Messages, count_messages
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import DIRECT, Ack, Grant, Revoke, Scheme, Sealed

CHECKSUM_BYTES = 8
SESSION_GRACE = 3.0
"""Seconds that reserved blocks wait for the sender to be reached. It dials as soon as it has heard
of the request, so after this the way to it is cut, and the client has its first token and waits
for the second."""


class ReceiverState(Enum):
    RESERVING = "reserving"
    RESERVED = "reserved"
    GRANTED = "granted"
    VERIFYING = "verifying"
    DRAINING = "draining"
    ADMITTED = "admitted"
    DONE = "done"


_LIVE = (
    ReceiverState.RESERVING,
    ReceiverState.RESERVED,
    ReceiverState.GRANTED,
    ReceiverState.VERIFYING,
)


class Receiver:
    """`num_blocks` is how many blocks are to come, those that the cache has included;
    `issue_tags(n)` draws n consecutive tags that were never used before (n > 0) and returns the
    first; `lease`: seconds without progress; `loan`: the blocks are for the prefix cache, and may
    be fewer; `num_layers`: of a block."""

    def __init__(
        self,
        key: RequestKey,
        sender: Identity,
        *,
        operation: int,
        num_blocks: int,
        issue_tags: Callable[[int], int],
        now: float,
        lease: float,
        loan: bool = False,
        num_layers: int = 1,
    ) -> None:
        self.key = key
        self.sender = sender
        self.operation = operation
        self.state = ReceiverState.RESERVING
        self.deadline = now + lease
        self.cached_blocks = 0
        self.num_blocks = num_blocks
        self.loan = loan
        self.stamps: dict[str, float] = {"created": now}
        """When this happened first or, of "arrived", last: "granted", "sealed"."""
        self._lease = lease
        self._issue_tags = issue_tags
        self._num_layers = num_layers
        self._scheme = DIRECT
        self._blocks: tuple[int, ...] = ()
        self._open: dict[int, tuple[int, ...]] = {}
        """Tags whose receives are not over, and their blocks."""
        self._sealed: Sealed | None = None
        self._has_session = False

    @property
    def is_live(self) -> bool:
        return self.state in _LIVE

    @property
    def received_blocks(self) -> int:
        return self.num_blocks - self.cached_blocks

    @property
    def in_flight(self) -> int:
        """Messages whose receives are not over."""
        return len(self._open)

    # -- events ------------------------------------------------------------------------------

    def on_reserved(self, blocks: tuple[int, ...], cached: int, now: float) -> list[Action]:
        """The pool reserved `blocks`; the first `cached` hold their KV already."""
        if self.state is not ReceiverState.RESERVING:
            return []
        self.state = ReceiverState.RESERVED
        self._blocks = blocks
        self.cached_blocks = min(cached, self.num_blocks)
        if self.loan and not self.received_blocks:
            return self._fail("all_cached", reroute=False, revoke=True)
        self.deadline = min(self.deadline, now + SESSION_GRACE)
        return self._grant(now)

    def on_refused(self, reason: str) -> list[Action]:
        """The pool has no room, and holds nothing for us."""
        if self.state is not ReceiverState.RESERVING:
            return []
        return self._fail(reason, reroute=True, revoke=True, release=False)

    def on_session(self, scheme: Scheme, now: float) -> list[Action]:
        """There is a session with the sender, perhaps again; `scheme` is how it sends."""
        # If it replaces one, that one's end was not heard of.
        actions = self.on_peer_lost() if self._has_session else []
        self._has_session = True
        if self.state is ReceiverState.DRAINING:
            for first, count in self._runs():
                actions.append(Tell(self._revoke(first, count, again=True)))
        elif self.state in (ReceiverState.RESERVING, ReceiverState.RESERVED):
            self._scheme = scheme
            actions += self._grant(now)
        return actions

    def on_receive_done(self, tag: int, error: Exception | None, now: float) -> list[Action]:
        """A receive is over: its blocks are written, or (an error) nothing will write them."""
        blocks = self._open.pop(tag, None)
        if blocks is None:
            return []
        if self.state is ReceiverState.DRAINING:
            # Other messages may write other layers of a block.
            safe = tuple(sorted(set(blocks) - set(self._open_blocks())))
            quarantined = safe and not self._scheme.staged
            actions: list[Action] = [EndQuarantine(safe)] if quarantined else []
            if not self._open:
                self.state = ReceiverState.DONE
            return actions
        if error is not None:
            return self._fail("receive_failed", reroute=True, revoke=True)
        self.deadline = now + self._lease
        self.stamps["arrived"] = now
        return self._complete()

    def on_sealed(self, sealed: Sealed, now: float) -> list[Action]:
        """Ignored unless it names this operation and the life of the sender it was granted to."""
        if (
            self.state is not ReceiverState.GRANTED
            or self._sealed is not None
            or sealed.operation != self.operation
            or sealed.epoch != self.sender.epoch
        ):
            return []
        if sealed.num_blocks is not None and not self.loan:
            return self._fail("incomplete", reroute=True, revoke=True)
        self._sealed = sealed
        self.deadline = now + self._lease
        self.stamps["sealed"] = now
        return self._complete()

    def on_verified(self, bad: tuple[int, ...]) -> list[Action]:
        """The blocks were compared; `bad` are not what was sent."""
        if self.state is not ReceiverState.VERIFYING:
            return []
        return self._fail("corrupt", reroute=True, revoke=True) if bad else self._admit()

    def on_aborted(self, operation: int | None, reason: str) -> list[Action]:
        """The sender gave up and answers what is open with zero bytes. If the first token ended
        the request, nobody needs to be told."""
        if operation is not None and operation != self.operation:
            return []
        reroute = reason not in ("finished", "cancelled", "ended")
        # Without our operation the sender had not seen a grant: if one is on its way it will be
        # answered when it arrives.
        return self._fail(f"sender_{reason}", reroute=reroute, revoke=False)

    def on_cancel(self) -> list[Action]:
        return self._fail("cancelled", reroute=False, revoke=True)

    def on_peer_lost(self) -> list[Action]:
        """The session is gone. What the sender's process may still write stays quarantined."""
        self._has_session = False
        if self.state is ReceiverState.VERIFYING:
            return []  # all of it is here
        return self._fail("peer_lost", reroute=True, revoke=False)

    def on_peer_gone(self) -> list[Action]:
        """The sender's process has ended: nothing writes any more."""
        actions = self.on_peer_lost()
        if self.state is ReceiverState.DRAINING:
            self.state = ReceiverState.DONE
            actions += [Abandon(tag) for tag in self._open]
            if not self._scheme.staged:
                actions.append(EndQuarantine(self._open_blocks()))
            self._open.clear()
        return actions

    def on_time(self, now: float) -> list[Action]:
        """Call at or after `deadline`."""
        if now < self.deadline:
            return []
        return self._fail("expired", reroute=True, revoke=True)

    # -- inside ------------------------------------------------------------------------------

    def _grant(self, now: float) -> list[Action]:
        if self.state is not ReceiverState.RESERVED or not self._has_session:
            return []
        self.state = ReceiverState.GRANTED
        self.deadline = now + self._lease
        self.stamps["granted"] = now
        count = count_messages(self.received_blocks, self._scheme, self._num_layers)
        grant = Grant(
            key=self.key,
            operation=self.operation,
            cached_blocks=self.cached_blocks,
            num_blocks=self.num_blocks,
            first_tag=self._issue_tags(count) if count else 0,
            scheme=self._scheme,
        )
        messages = Messages.of(grant, self._num_layers)
        actions: list[Action] = []
        for message in range(count):
            first, stop = messages.span(message)
            tag, blocks = messages.tag(message), self._blocks[first:stop]
            self._open[tag] = blocks
            actions.append(PostReceive(blocks, tag, self._scheme, messages.layers(message)))
        return [*actions, Tell(grant)]

    def _complete(self) -> list[Action]:
        """Admit once all is sealed and here, after a look at the checksums if there are any."""
        sealed = self._sealed
        if self.state is not ReceiverState.GRANTED or sealed is None or self._open:
            return []
        arrived = self._blocks[self.cached_blocks : self._filled(sealed)]
        if not sealed.checksums:
            return self._admit()
        if len(sealed.checksums) != len(arrived) * CHECKSUM_BYTES:
            return self._fail("corrupt", reroute=True, revoke=True)
        self.state = ReceiverState.VERIFYING
        return [Verify(arrived, sealed.checksums)]

    def _filled(self, sealed: Sealed) -> int:
        """How many of the first blocks hold KV now."""
        if sealed.num_blocks is None:
            return self.num_blocks
        return max(self.cached_blocks, min(sealed.num_blocks, self.num_blocks))

    def _admit(self) -> list[Action]:
        assert self._sealed is not None
        self.state = ReceiverState.ADMITTED
        ack = Tell(Ack(key=self.key, operation=self.operation))
        if self.loan:
            return [AdoptBlocks(self._filled(self._sealed)), ack, Ended("adopted", reroute=False)]
        return [Admit(self._sealed.tokens), ack, Ended("admitted", reroute=False)]

    def _revoke(self, first_tag: int, num_tags: int, *, again: bool) -> Revoke:
        return Revoke(
            key=self.key,
            operation=self.operation,
            first_tag=first_tag,
            num_tags=num_tags,
            again=again,
        )

    def _runs(self) -> list[tuple[int, int]]:
        """The open tags as (first, number) of runs."""
        runs: list[tuple[int, int]] = []
        for tag in sorted(self._open):
            if runs and tag == sum(runs[-1]):
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((tag, 1))
        return runs

    def _open_blocks(self) -> tuple[int, ...]:
        return tuple(sorted({block for blocks in self._open.values() for block in blocks}))

    def _fail(
        self, outcome: str, *, reroute: bool, revoke: bool, release: bool = True
    ) -> list[Action]:
        if not self.is_live:
            return []
        actions: list[Action] = []
        if revoke and self._has_session:
            # Without a grant it names no tags, and says that none will come.
            first, count = min(self._open, default=0), len(self._open)
            if count:
                count = max(self._open) + 1 - first
            actions.append(Tell(self._revoke(first, count, again=False)))
        if self._scheme.staged:
            actions += [Detach(tag) for tag in self._open]
        if release:
            # Also a reservation that the pool has not answered yet: commands are in order.
            quarantine = () if self._scheme.staged else self._open_blocks()
            actions.append(ReleaseBlocks(quarantine))
        actions.append(Ended(outcome, reroute))
        self.state = ReceiverState.DRAINING if self._open else ReceiverState.DONE
        return actions

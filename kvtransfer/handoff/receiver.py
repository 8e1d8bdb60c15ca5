"""The receiving side of one hand-off, on the decode worker. Pure.

Owns: the reservation of the request's blocks until they are admitted (then the engine's) or
released. A block into which a receive is posted is given back only when that receive completed
or the sender's process is gone; until then it is quarantined.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from baton.kvtransfer.handoff.actions import (
    Action,
    Admit,
    Ended,
    EndQuarantine,
    PostReceive,
    ReleaseBlocks,
    Tell,
)
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import Ack, Grant, Revoke, Sealed


class ReceiverState(Enum):
    RESERVING = "reserving"
    RESERVED = "reserved"
    GRANTED = "granted"
    DRAINING = "draining"
    ADMITTED = "admitted"
    DONE = "done"


class Receiver:
    """`num_blocks` is how many blocks the prompt and accepted tokens fill; `issue_tags(n)` draws n
    consecutive tags that were never used before (n > 0) and returns the first."""

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
    ) -> None:
        self.key = key
        self.sender = sender
        self.state = ReceiverState.RESERVING
        self.deadline = now + lease
        self.cached_blocks = 0
        self.num_blocks = num_blocks
        self.created_at = now
        self.granted_at: float | None = None
        self.sealed_at: float | None = None
        self._operation = operation
        self._issue_tags = issue_tags
        self._first_tag = 0
        self._blocks: tuple[int, ...] = ()
        self._open: set[int] = set()
        """Blocks with a receive posted and not complete."""
        self._sealed: Sealed | None = None
        self._has_session = False

    @property
    def received_blocks(self) -> int:
        return self.num_blocks - self.cached_blocks

    # -- events ------------------------------------------------------------------------------

    def on_reserved(self, blocks: tuple[int, ...], cached: int, now: float) -> list[Action]:
        """The pool reserved `blocks`; the first `cached` hold their KV already."""
        if self.state is not ReceiverState.RESERVING:
            return [ReleaseBlocks()]
        self.state = ReceiverState.RESERVED
        self._blocks = blocks
        self.cached_blocks = min(cached, self.num_blocks)
        return self._grant(now)

    def on_refused(self, reason: str) -> list[Action]:
        if self.state is not ReceiverState.RESERVING:
            return []
        self.state = ReceiverState.DONE
        return [Ended(reason, reroute=True)]

    def on_session(self, now: float) -> list[Action]:
        """There is a session with the sender, perhaps again."""
        self._has_session = True
        if self.state is ReceiverState.DRAINING:
            return [Tell(self._revoke(again=True))]
        return self._grant(now)

    def on_receive_done(self, block: int, error: Exception | None, now: float) -> list[Action]:
        self._open.discard(block)
        if self.state is ReceiverState.DRAINING:
            actions: list[Action] = [EndQuarantine((block,))]
            if not self._open:
                self.state = ReceiverState.DONE
            return actions
        if error is not None:
            return self._fail("receive_failed", reroute=True, revoke=True)
        return self._admit(now)

    def on_sealed(self, sealed: Sealed, now: float) -> list[Action]:
        """Ignored unless it names this operation and the life of the sender it was granted to."""
        if (
            self.state is not ReceiverState.GRANTED
            or sealed.operation != self._operation
            or sealed.epoch != self.sender.epoch
        ):
            return []
        self._sealed = sealed
        self.sealed_at = now
        return self._admit(now)

    def on_aborted(self, operation: int | None, reason: str) -> list[Action]:
        """The sender gave up and answers what is open with zero bytes. If the first token ended
        the request, nobody needs to be told."""
        if operation is not None and operation != self._operation:
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
        return self._fail("peer_lost", reroute=True, revoke=False)

    def on_peer_gone(self) -> list[Action]:
        """The sender's process has ended: nothing writes any more."""
        actions = self.on_peer_lost()
        if self.state is ReceiverState.DRAINING:
            self.state = ReceiverState.DONE
            actions.append(EndQuarantine(tuple(sorted(self._open))))
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
        self.granted_at = now
        lacking = self._blocks[self.cached_blocks : self.num_blocks]
        self._first_tag = self._issue_tags(len(lacking)) if lacking else 0
        self._open = set(lacking)
        receives = [
            PostReceive(block, self._first_tag + index) for index, block in enumerate(lacking)
        ]
        grant = Grant(
            key=self.key,
            operation=self._operation,
            cached_blocks=self.cached_blocks,
            num_blocks=self.num_blocks,
            first_tag=self._first_tag,
        )
        return [*receives, Tell(grant)]

    def _admit(self, now: float) -> list[Action]:
        if self.state is not ReceiverState.GRANTED or self._sealed is None or self._open:
            return []
        self.state = ReceiverState.ADMITTED
        return [
            Admit(self._sealed.tokens),
            Tell(Ack(key=self.key, operation=self._operation)),
            Ended("admitted", reroute=False),
        ]

    def _revoke(self, *, again: bool) -> Revoke:
        return Revoke(
            key=self.key,
            operation=self._operation,
            first_tag=self._first_tag,
            num_tags=self.received_blocks,
            again=again,
        )

    def _fail(self, outcome: str, *, reroute: bool, revoke: bool) -> list[Action]:
        if self.state in (ReceiverState.DRAINING, ReceiverState.ADMITTED, ReceiverState.DONE):
            return []
        was = self.state
        actions: list[Action] = []
        if was is ReceiverState.GRANTED and revoke:
            actions.append(Tell(self._revoke(again=False)))
        # A reservation that the pool has not answered yet is released too: the engine takes
        # commands in order.
        actions.append(ReleaseBlocks(quarantine=tuple(sorted(self._open))))
        actions.append(Ended(outcome, reroute))
        self.state = ReceiverState.DRAINING if self._open else ReceiverState.DONE
        return actions

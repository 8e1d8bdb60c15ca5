"""The sending side of one hand-off, on the prefill worker. Pure.

Owns: the lease on the request's blocks, from the start of the prefill until Ack, failure or
expiry; and the duty to answer every tag of the grant exactly once, with a block or, when the
hand-off fails, with zero bytes. Blocks are released only when no send reads them any more.

A machine may be created by the Grant or by the Prefill, whichever arrives first. One that ended
before its Grant came is kept until `expired` so that a late Grant is still answered.
"""

from __future__ import annotations

from enum import Enum

from baton.kvtransfer.handoff.actions import Action, Ended, PostSend, ReleaseBlocks, Tell
from baton.protocol.ids import RequestKey
from baton.protocol.records import Aborted, Grant, Revoke, Sealed


class SenderState(Enum):
    OPEN = "open"
    SEALED = "sealed"
    CLOSING = "closing"
    DONE = "done"


class Sender:
    """`deadline` is a time on the clock that the caller's `now` comes from."""

    def __init__(self, key: RequestKey, epoch: int, *, now: float, lease: float) -> None:
        self.key = key
        self.state = SenderState.OPEN
        self.started = False
        """The Prefill has arrived, so there are, or will be, blocks."""
        self.grant: Grant | None = None
        self.deadline = now + lease
        self.sent_blocks = 0
        self.granted_at: float | None = None
        self._epoch = epoch
        self._lease = lease
        self._blocks: tuple[int, ...] = ()
        self._ready = 0
        self._next = 0
        self._in_flight = 0
        self._tokens: tuple[int, ...] | None = None

    @property
    def needs_answer(self) -> bool:
        """Ended, but a Grant may still come."""
        return self.state is SenderState.DONE and self.grant is None

    # -- events ------------------------------------------------------------------------------

    def on_start(self, now: float) -> list[Action]:
        """The Prefill arrived."""
        self.started = True
        self.deadline = now + self._lease
        return []

    def on_progress(
        self,
        blocks: tuple[int, ...],
        ready: int,
        *,
        done: bool,
        tokens: tuple[int, ...],
        finished: bool,
        now: float,
    ) -> list[Action]:
        """The first `ready` of `blocks` are final. `done`: so are all, and `tokens` were sampled;
        `finished`: they end the request, so there is nothing to hand over."""
        if self.state is not SenderState.OPEN:
            return []
        self.deadline = now + self._lease
        self._blocks = blocks
        self._ready = len(blocks) if done else ready
        if finished:
            return self._close("finished", reroute=False, tell=True)
        if done:
            self._tokens = tokens
        return self._advance()

    def on_grant(self, grant: Grant, now: float) -> list[Action]:
        if self.grant is not None:
            return []
        self.grant = grant
        self.granted_at = now
        self._next = grant.cached_blocks
        if self.state is not SenderState.OPEN:
            # It ended while the grant was on its way.
            return [*self._answer_rest(), Tell(Aborted(
                key=self.key, operation=grant.operation, reason="ended"))]
        return self._advance()

    def on_send_done(self, error: Exception | None) -> list[Action]:
        """A send of a block (not of zero bytes) completed."""
        self._in_flight -= 1
        if self.state is SenderState.CLOSING:
            return self._finish_closing()
        if error is not None:
            return self._close("send_failed", reroute=True, tell=True)
        return self._advance()

    def on_ack(self, operation: int) -> list[Action]:
        if self.state is not SenderState.SEALED or not self._is_current(operation):
            return []
        self.state = SenderState.DONE
        return [ReleaseBlocks(), Ended("acked", reroute=False)]

    def on_revoke(self, revoke: Revoke) -> list[Action]:
        if self.grant is None:
            # The grant was lost with its session. Its tags are answered all the same.
            self.grant = Grant(
                key=self.key,
                operation=revoke.operation,
                cached_blocks=0,
                num_blocks=revoke.num_tags,
                first_tag=revoke.first_tag,
            )
            closing = self._close("revoked", reroute=False, tell=False)
            return self._answer_rest() + closing
        if not self._is_current(revoke.operation):
            return []
        return self._close("revoked", reroute=False, tell=False)

    def on_cancel(self) -> list[Action]:
        """The router cancelled, or the engine failed the sequence."""
        return self._close("cancelled", reroute=False, tell=True)

    def on_peer_lost(self) -> list[Action]:
        return self._close("peer_lost", reroute=True, tell=False)

    def on_time(self, now: float) -> list[Action]:
        """Call at or after `deadline`."""
        if now < self.deadline or self.state in (SenderState.CLOSING, SenderState.DONE):
            return []
        return self._close("expired", reroute=self.started, tell=True)

    # -- inside ------------------------------------------------------------------------------

    def _is_current(self, operation: int) -> bool:
        return self.grant is not None and self.grant.operation == operation

    def _advance(self) -> list[Action]:
        """Send what is ready and granted; seal after the last."""
        if self.state is not SenderState.OPEN or self.grant is None:
            return []
        actions: list[Action] = []
        while self._next < min(self._ready, self.grant.num_blocks):
            actions.append(PostSend(self._blocks[self._next], self._tag(self._next)))
            self._next += 1
            self._in_flight += 1
            self.sent_blocks += 1
        complete = self._next >= self.grant.num_blocks and self._in_flight == 0
        if self._tokens is not None and complete:
            self.state = SenderState.SEALED
            actions.append(Tell(Sealed(
                key=self.key,
                operation=self.grant.operation,
                epoch=self._epoch,
                tokens=self._tokens,
            )))
        return actions

    def _tag(self, index: int) -> int:
        assert self.grant is not None
        return self.grant.first_tag + index - self.grant.cached_blocks

    def _answer_rest(self) -> list[Action]:
        """Zero bytes to every tag that was not answered yet."""
        if self.grant is None:
            return []
        rest = range(self._next, self.grant.num_blocks)
        self._next = max(self._next, self.grant.num_blocks)
        return [PostSend(None, self._tag(index)) for index in rest]

    def _close(self, outcome: str, *, reroute: bool, tell: bool) -> list[Action]:
        if self.state in (SenderState.CLOSING, SenderState.DONE):
            return []
        self.state = SenderState.CLOSING
        actions = self._answer_rest()
        if tell:
            operation = self.grant.operation if self.grant is not None else None
            actions.append(Tell(Aborted(key=self.key, operation=operation, reason=outcome)))
        actions.append(Ended(outcome, reroute))
        return actions + self._finish_closing()

    def _finish_closing(self) -> list[Action]:
        if self._in_flight:
            return []
        self.state = SenderState.DONE
        return [ReleaseBlocks()]


def answer_unknown(revoke: Revoke) -> list[PostSend]:
    """What a sender that knows nothing of the hand-off owes to a Revoke. A first Revoke crossed
    with the end of a hand-off that answered every tag; one sent again may be the last chance."""
    if not revoke.again:
        return []
    tags = range(revoke.first_tag, revoke.first_tag + revoke.num_tags)
    return [PostSend(None, tag) for tag in tags]

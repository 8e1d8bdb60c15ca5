"""The sending side of one hand-off. Pure.

Owns: the lease on the request's blocks, from the start until Ack, failure or expiry; and the duty
to answer every tag of the grant exactly once, with blocks or, when the hand-off fails, with zero
bytes. A block that a send still reads when the lease ends is quarantined until that send is over.

    OPEN     the engine computes, what is ready and granted is sent   deadline: progress + lease
             (whole blocks; layers of blocks that the step under way computes, if so granted)
    SEALED   all sends are over, Sealed is told                       deadline: seal + lease
    CLOSING  failed; sends of quarantined blocks are not over         no deadline: only their end
    DONE     owns nothing; see `lingers`

A machine may be created by the Grant or by the request, whichever arrives first.
"""

from __future__ import annotations

from enum import Enum

from baton.kvtransfer.handoff.actions import (
    Action,
    Checksum,
    Ended,
    EndQuarantine,
    PostSend,
    ReleaseBlocks,
    Tell,
)
from baton.kvtransfer.handoff.messages import BlockSizes, Messages
from baton.protocol.ids import RequestKey
from baton.protocol.records import Aborted, Grant, Revoke, Sealed


class SenderState(Enum):
    OPEN = "open"
    SEALED = "sealed"
    CLOSING = "closing"
    DONE = "done"


class Sender:
    """`lease`: seconds without progress; `deadline` is on the clock that `now` comes from.
    `checksums`: seal with one for each of the receiver's blocks. `num_layers`: of a block."""

    def __init__(
        self,
        key: RequestKey,
        epoch: int,
        *,
        now: float,
        lease: float,
        checksums: bool = False,
        num_layers: int = 1,
    ) -> None:
        self.key = key
        self.state = SenderState.OPEN
        self.started = False
        """The request has arrived, so there are, or will be, blocks."""
        self.deadline = now + lease
        self.sent_blocks = 0
        self.wish = 0
        """What the seal asks of the next grants, see `Sealed.layers_per_message`."""
        self.stamps: dict[str, float] = {}
        """When this happened first: "started", "granted", "posted", "ready" (all blocks are),
        "sealed"; or last: "sent"."""
        self._epoch = epoch
        self._lease = lease
        self._with_checksums = checksums
        self._operation: int | None = None
        self._messages: Messages | None = None
        self._sizes = BlockSizes()
        self._answered = False
        """No Grant is to come any more that would have to be answered."""
        self._blocks: tuple[int, ...] = ()
        self._ready = 0
        self._num_layers = num_layers
        self._begun: tuple[int, int] = (0, 0)
        """The step under way has computed so many layers of so many of the first blocks."""
        self._left: list[int] = []
        """Messages not posted yet."""
        self._in_flight: dict[int, tuple[int, ...]] = {}
        self._asked_again: set[int] = set()
        self._summing: set[int] = set()
        self._sums: dict[int, bytes] = {}
        self._tokens: tuple[int, ...] | None = None

    @property
    def in_flight(self) -> int:
        """Messages whose sends are not over."""
        return len(self._in_flight)

    @property
    def granted(self) -> Messages | None:
        return self._messages

    @property
    def lingers(self) -> bool:
        """DONE, but to be kept until the deadline: a Grant may still come."""
        return self.state is SenderState.DONE and not self._answered

    # -- events ------------------------------------------------------------------------------

    def on_start(self, now: float) -> list[Action]:
        """The request arrived."""
        self.started = True
        self._stamp("started", now)
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
            self._stamp("ready", now)
        return self._advance(now)

    def on_layers(
        self, blocks: tuple[int, ...], begun: int, layers: int, now: float
    ) -> list[Action]:
        """In the midst of a step: the first `layers` layers of the first `begun` of `blocks` are
        final. If the step fails all the same, the hand-off is cancelled."""
        if self.state is not SenderState.OPEN or self._tokens is not None:
            return []
        self.deadline = now + self._lease
        self._blocks = blocks
        self._begun = (begun, layers)
        return self._advance(now)

    def on_nothing(self, reason: str) -> list[Action]:
        """The engine has no blocks to hand over, and holds none."""
        return self._close(reason, reroute=False, tell=True, release=False)

    def on_grant(
        self, grant: Grant, now: float, sizes: BlockSizes | None = None
    ) -> list[Action]:
        """The grant counts the receiver's blocks."""
        if self._answered:
            return []
        self._answered = True
        self._sizes = sizes or self._sizes
        self._operation = grant.operation
        self._messages = Messages.of(grant, self._num_layers)
        self._left = list(range(self._messages.count))
        self._stamp("granted", now)
        if self.state is not SenderState.OPEN:
            # It ended while the grant was on its way.
            aborted = Aborted(key=self.key, operation=grant.operation, reason="ended")
            return [*self._answer_rest(), Tell(aborted)]
        return self._advance(now)

    def on_send_done(self, tag: int, error: Exception | None, now: float) -> list[Action]:
        """A send of blocks is over: they are not read any more."""
        blocks = self._in_flight.pop(tag, ())
        if self.state is SenderState.CLOSING:
            # Messages share blocks where they are cut by layers, or the receiver's are smaller.
            freed = set(blocks) - self._read()
            actions: list[Action] = [EndQuarantine(tuple(sorted(freed)))] if freed else []
            if error is not None and tag in self._asked_again:
                actions.append(PostSend((), tag))
            if not self._in_flight:
                self.state = SenderState.DONE
            return actions
        if error is not None:
            return self._close("send_failed", reroute=True, tell=True)
        self.deadline = now + self._lease
        self.stamps["sent"] = now
        return self._advance(now)

    def on_checksums(self, tag: int, checksums: bytes, now: float) -> list[Action]:
        if tag not in self._summing:
            return []
        self._summing.discard(tag)
        self._sums[tag] = checksums
        return self._advance(now)

    def on_ack(self, operation: int) -> list[Action]:
        if self.state is not SenderState.SEALED or operation != self._operation:
            return []
        self.state = SenderState.DONE
        return [ReleaseBlocks(), Ended("acked", reroute=False)]

    def on_revoke(self, revoke: Revoke) -> list[Action]:
        """Sent `again`, it is about a grant that may have been lost with its session, perhaps of
        an earlier hand-off with this key: its tags are answered in any case, apart from those
        whose sends are not over, which may still answer them."""
        if revoke.again:
            named = range(revoke.first_tag, revoke.first_tag + revoke.num_tags)
            self._asked_again.update(self._in_flight.keys() & set(named))
            answers: list[Action] = [
                PostSend((), tag) for tag in named if tag not in self._in_flight
            ]
            if self.state is SenderState.DONE:
                self._answered = True
            return answers
        if self._operation not in (None, revoke.operation):
            return []
        self._answered = True
        return self._close("revoked", reroute=False, tell=False)

    def on_cancel(self) -> list[Action]:
        """The router cancelled, or the engine failed the sequence."""
        return self._close("cancelled", reroute=False, tell=True)

    def on_peer_lost(self) -> list[Action]:
        """The session is gone, or could not be had."""
        return self._close("peer_lost", reroute=True, tell=False)

    def on_time(self, now: float) -> list[Action]:
        """Call at or after `deadline`."""
        if now < self.deadline or self.state in (SenderState.CLOSING, SenderState.DONE):
            return []
        self.deadline = now + self._lease  # to linger
        return self._close("expired", reroute=self.started, tell=True)

    # -- inside ------------------------------------------------------------------------------

    def _stamp(self, what: str, now: float) -> None:
        self.stamps.setdefault(what, now)

    def _advance(self, now: float) -> list[Action]:
        """Send what is ready and granted; seal after the last."""
        messages = self._messages
        if self.state is not SenderState.OPEN or messages is None:
            return []
        actions: list[Action] = []
        sendable = self._sendable(messages)
        left: list[int] = []
        for place, message in enumerate(self._left):
            if self._may_go(messages, message, sendable):
                actions += self._post(messages, message, sendable)
                continue
            left.append(message)
            if message % messages.groups == 0:
                left += self._left[place + 1 :]  # what follows is not ready either
                break
        self._left = left
        if actions:
            self._stamp("posted", now)
        over = not self._left and not self._in_flight and not self._summing
        if self._tokens is not None and over:
            self.state = SenderState.SEALED
            self.deadline = now + self._lease
            self._stamp("sealed", now)
            actions.append(Tell(self._seal(messages)))
        return actions

    def _sendable(self, messages: Messages) -> int:
        """How many of the first of the receiver's blocks can be filled now."""
        if not self._tokens:
            return min(self._sizes.whole(self._ready), messages.num_blocks)
        # The last one may end before it is full: that is where the prompt ends.
        return min(self._sizes.begun(self._ready), messages.num_blocks)

    def _may_go(self, messages: Messages, message: int, sendable: int) -> bool:
        stop = messages.span(message)[1]
        if self._tokens is not None or stop <= sendable:
            return True
        begun, computed = self._begun
        layers = messages.layers(message)
        return layers is not None and stop <= begun and layers[1] <= computed

    def _post(self, messages: Messages, message: int, sendable: int) -> list[Action]:
        first, stop = messages.span(message)
        layers = messages.layers(message)
        if self._tokens is not None:
            stop = min(stop, sendable)  # all there is may be less than was granted
        tag = messages.tag(message)
        if stop <= first:
            return [PostSend((), tag)]
        begin, end, skip = self._sizes.cover(first, stop)
        blocks = self._blocks[begin:end]
        self._in_flight[tag] = blocks
        # With its last layers a block is sent, and can be summed.
        whole = layers is None or layers[1] == self._num_layers
        self.sent_blocks += len(blocks) if whole else 0
        actions: list[Action] = [
            PostSend(blocks, tag, messages.scheme, stop - first, skip, layers)
        ]
        if self._with_checksums and whole:
            self._summing.add(tag)
            actions.append(Checksum(blocks, tag, stop - first, skip))
        return actions

    def _seal(self, messages: Messages) -> Sealed:
        assert self._operation is not None
        assert self._tokens is not None
        sent = self._sendable(messages)
        return Sealed(
            key=self.key,
            operation=self._operation,
            epoch=self._epoch,
            tokens=self._tokens,
            num_blocks=sent if sent < messages.num_blocks else None,
            checksums=b"".join(self._sums[tag] for tag in sorted(self._sums)),
            layers_per_message=self.wish,
        )

    def _answer_rest(self) -> list[Action]:
        """Zero bytes to every tag that was not answered yet."""
        if self._messages is None:
            return []
        rest, self._left = self._left, []
        return [PostSend((), self._messages.tag(message)) for message in rest]

    def _read(self) -> set[int]:
        """Blocks that sends may still read."""
        return {block for blocks in self._in_flight.values() for block in blocks}

    def _close(
        self, outcome: str, *, reroute: bool, tell: bool, release: bool = True
    ) -> list[Action]:
        if self.state in (SenderState.CLOSING, SenderState.DONE):
            return []
        # After the seal the receiver may have admitted the request; if not, it says so itself.
        reroute = reroute and self.state is SenderState.OPEN
        actions = self._answer_rest()
        if tell:
            aborted = Aborted(key=self.key, operation=self._operation, reason=outcome)
            actions.append(Tell(aborted))
        if release:
            actions.append(ReleaseBlocks(quarantine=tuple(sorted(self._read()))))
        actions.append(Ended(outcome, reroute))
        self.state = SenderState.CLOSING if self._in_flight else SenderState.DONE
        return actions


def answer_unknown(revoke: Revoke) -> list[PostSend]:
    """What a sender that knows nothing of the hand-off owes to a Revoke. A first Revoke crossed
    with the end of a hand-off that answered every tag; one sent again may be the last chance."""
    if not revoke.again:
        return []
    tags = range(revoke.first_tag, revoke.first_tag + revoke.num_tags)
    return [PostSend((), tag) for tag in tags]

"""A transport whose operations end when a test says so: late, in any order, with errors, or never.

A send may be over before its bytes have left (buffered), and its bytes may arrive long after the
way to the peer was closed. What is written lands in the memory of the receiver's runner, so a
block that was given away too early holds somebody else's content, which the runner notices.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from baton.engine.block_pool import BlockState, Use
from baton.kvtransfer.conversion import Cut
from baton.kvtransfer.mover import OnDone, Part
from baton.protocol.records import Scheme

if TYPE_CHECKING:
    from storm_worker import Life

Row = list[int | None]

_IN_USE = (BlockState.ACTIVE, BlockState.HELD, BlockState.QUARANTINED)


def row_bytes(row: Row) -> bytes:
    return array("q", [-1 if value is None else value for value in row]).tobytes()


def converted_rows(
    sender: Life, receiver: Life, blocks: Sequence[int], cut: Cut | None, part: Part | None = None
) -> list[Row]:
    """Copies of blocks of the sender or of a part of each, or what `cut` takes of them in blocks
    of the receiver."""
    rows: list[Row] = [list(sender.runner.memory[block]) for block in blocks]
    if cut is None:
        return [row[_slots(sender, part)] for row in rows]
    ours, size = sender.block_size, receiver.block_size
    converted: list[Row] = [[] for _ in range(cut.num_blocks)]
    for layer in range(sender.runner.num_layers):
        flat = [slot for row in rows for slot in row[layer * ours : (layer + 1) * ours]][cut.skip :]
        flat = (flat + [None] * (cut.num_blocks * size))[: cut.num_blocks * size]
        for i, row in enumerate(converted):
            row += flat[i * size : (i + 1) * size]
    return converted


def _slots(life: Life, part: Part | None) -> slice:
    """Bytes of a block to slots: a layout of float32 with one head and one dimension."""
    each = life.layout.block_bytes // (life.block_size * life.runner.num_layers)
    return slice(None) if part is None else slice(part[0] // each, part[1] // each)


class Send:
    def __init__(
        self, sender: Life, receiver: Life, tag: int, blocks: Sequence[int],
        on_done: OnDone | None, cut: Cut | None, part: Part | None,
    ) -> None:
        self.part = part
        self.sender, self.receiver, self.tag = sender, receiver, tag
        self.cut = cut
        self.blocks = tuple(blocks)
        self.on_done = on_done
        self.rows: list[Row] | None = None
        self.matched = False
        self.over = on_done is None
        self.stuck = False

    def capture(self) -> None:
        """The blocks are read now."""
        if self.rows is None:
            for block in self.blocks:
                self.sender.assert_in_use(block, "is read by a send")
            self.rows = converted_rows(
                self.sender, self.receiver, self.blocks, self.cut, self.part)


class Receive:
    """Also the Landing that the stage holds."""

    def __init__(
        self, wire: Wire, life: Life, tag: int, blocks: Sequence[int], staged: bool,
        on_done: OnDone, part: Part | None,
    ) -> None:
        self.part = part
        self.wire, self.life, self.tag = wire, life, tag
        self.blocks = tuple(blocks)
        self.staged = staged
        self.on_done = on_done
        self.rows: list[Row] = []
        self.matched = False
        self.detached = False
        self.stuck = False

    def detach(self) -> bool:
        self.detached = self.staged
        return self.staged

    def abandon(self) -> None:
        self.wire.receives.pop((self.life, self.tag), None)

    def write(self) -> None:
        if self.detached:
            return
        for block, row in zip(self.blocks, self.rows, strict=False):
            self.life.assert_sole_use(block)
            self.life.runner.memory[block][_slots(self.life, self.part)] = row


class Wire:
    """All operations of all lives."""

    def __init__(self) -> None:
        self.sends: list[Send] = []
        self.receives: dict[tuple[Life, int], Receive] = {}
        self.answered: set[tuple[Life, int]] = set()
        """Tags to which blocks were sent: that happens once."""

    # -- posting -----------------------------------------------------------------------------

    def post_send(
        self, sender: Life, receiver: Life, tag: int, blocks: Sequence[int],
        on_done: OnDone | None, cut: Cut | None = None, part: Part | None = None,
    ) -> None:
        if blocks:
            assert (receiver, tag) not in self.answered, f"tag {tag} gets blocks twice"
            self.answered.add((receiver, tag))
        self.sends.append(Send(sender, receiver, tag, blocks, on_done, cut, part))

    def post_receive(
        self, life: Life, tag: int, blocks: Sequence[int], scheme: Scheme, on_done: OnDone,
        part: Part | None = None,
    ) -> Receive:
        assert (life, tag) not in self.receives, f"tag {tag} is awaited twice"
        receive = Receive(self, life, tag, blocks, scheme.staged, on_done, part)
        self.receives[life, tag] = receive
        return receive

    # -- what the test lets happen -----------------------------------------------------------

    def matchable(self) -> list[Send]:
        """Those whose receives are posted."""
        found = []
        for send in self.sends:
            receive = self.receives.get((send.receiver, send.tag))
            if receive is None or receive.matched or receive.stuck or send.stuck or send.matched:
                continue
            if not send.receiver.dead:
                found.append(send)
        return found

    def match(self, send: Send, corrupt: bool = False) -> None:
        """The bytes go over."""
        receive = self.receives[send.receiver, send.tag]
        send.capture()
        assert send.rows is not None
        receive.rows = [list(row) for row in send.rows]
        if corrupt and receive.rows:
            receive.rows[0][0] = 1 + (receive.rows[0][0] or 0)
        send.matched = receive.matched = True
        if not receive.staged:
            receive.write()
        self._tidy(send)

    def end_send(self, send: Send, error: Exception | None = None) -> None:
        """Without a match and without an error it was buffered; with an error it is lost."""
        assert not send.over
        if error is None:
            send.capture()
        else:
            send.matched = True
        send.over = True
        self._tidy(send)
        assert send.on_done is not None
        if not send.sender.dead:
            send.on_done(error)

    def end_receive(self, receive: Receive, error: Exception | None = None) -> None:
        assert receive.matched
        del self.receives[receive.life, receive.tag]
        if receive.staged and error is None:
            receive.write()
        receive.on_done(error)

    def lose_empty(self, send: Send) -> None:
        """Zero bytes that were on their way when the way broke."""
        send.matched = True
        self._tidy(send)

    def died(self, life: Life) -> None:
        """Its own operations are gone with it; those towards it end with errors, later."""
        self.sends = [send for send in self.sends if send.sender is not life]
        self.sends = [send for send in self.sends if send.receiver is not life or not send.over]
        for place in [place for place in self.receives if place[0] is life]:
            del self.receives[place]

    def _tidy(self, send: Send) -> None:
        if send.over and send.matched:
            self.sends.remove(send)

    # -- checking ----------------------------------------------------------------------------

    def check(self, life: Life) -> None:
        """No block of this life was given back under an operation that may touch it."""
        for send in self.sends:
            if send.sender is life and not send.over:
                for block in send.blocks:
                    life.assert_in_use(block, "was given back under a send")
        for receive in self.receives.values():
            if receive.life is life and not (receive.detached or receive.staged):
                for block in receive.blocks:
                    life.assert_sole_use(block)


def assert_in_use(life: Life, block: int, what: str) -> None:
    state = life.pool.state(block)
    assert state in _IN_USE, f"block {block} of {life.name} {what} and is {state.name}"


def assert_sole_use(life: Life, block: int) -> None:
    uses = [life.pool.uses(block, use) for use in Use]
    assert sum(uses) == 1, f"block {block} of {life.name} may be written and has uses {uses}"

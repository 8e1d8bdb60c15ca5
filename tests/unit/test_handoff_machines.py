"""The two hand-off machines of one hand-off, against a scheduler that hypothesis shrinks: control
records are delayed, sessions break, either side cancels or expires at any moment. Whole workers,
many hand-offs and worse weather are in test_handoff_weather.py."""

from __future__ import annotations

from collections import deque
from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baton.kvtransfer.handoff.actions import (
    Action,
    Admit,
    Detach,
    Ended,
    EndQuarantine,
    PostReceive,
    PostSend,
    ReleaseBlocks,
    Tell,
)
from baton.kvtransfer.handoff.receiver import SESSION_GRACE, Receiver, ReceiverState
from baton.kvtransfer.handoff.sender import Sender, SenderState, answer_unknown
from baton.protocol.ids import Identity, RequestKey
from baton.protocol.records import DIRECT, Aborted, Ack, Grant, Revoke, Scheme, Sealed

KEY = RequestKey("r", 0)
P = Identity("p", 11)


class World:
    """One hand-off of `num_blocks` blocks of which the receiver holds `cached`."""

    def __init__(
        self, num_blocks: int, cached: int, chunks: list[int], scheme: Scheme = DIRECT
    ) -> None:
        self.now = 0.0
        self.scheme = scheme
        self.num_blocks, self.cached = num_blocks, cached
        self.sender = Sender(KEY, P.epoch, now=0, lease=30)
        tags = count(1000)
        self.receiver = Receiver(
            KEY, P, operation=7, num_blocks=num_blocks,
            issue_tags=lambda n: min(next(tags) for _ in range(n)),
            now=0, lease=30,
        )
        self.chunks = deque(chunks)
        self.to_sender: deque[object] = deque()
        self.to_receiver: deque[object] = deque()
        self.session = False
        self.reserved = False
        self.started = False
        self.computed = 0
        # Transport: what was sent to each tag, and which receives are posted.
        self.sent: dict[int, tuple[int, ...]] = {}
        self.unconfirmed_sends: list[PostSend] = []
        self.open_receives: dict[int, tuple[int, ...]] = {}
        self.detached: set[int] = set()
        # Observations.
        self.d_blocks: dict[int, object] = {}
        self.quarantined: set[int] = set()
        self.p_quarantined: set[int] = set()
        self.p_released = self.d_released = False
        self.admitted: tuple[int, ...] | None = None
        self.p_ended: list[Ended] = []
        self.d_ended: list[Ended] = []

    # -- carrying out actions ----------------------------------------------------------------

    def do_p(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case PostSend():
                    assert not (self.p_released and action.blocks), "read after release"
                    if action.blocks:
                        assert action.tag not in self.sent, "a tag was answered twice"
                        self.unconfirmed_sends.append(action)
                    self.sent.setdefault(action.tag, action.blocks)
                case Tell():
                    if self.session:
                        self.to_receiver.append(action.record)
                case ReleaseBlocks():
                    read = {block for send in self.unconfirmed_sends for block in send.blocks}
                    assert set(action.quarantine) == read, "released under an unfinished send"
                    self.p_quarantined = read
                    self.p_released = True
                case EndQuarantine():
                    self.p_quarantined.difference_update(action.blocks)
                case Ended():
                    self.p_ended.append(action)
                case _:
                    raise AssertionError(action)

    def do_d(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case PostReceive():
                    assert not self.d_released
                    self.open_receives[action.tag] = action.blocks
                case Tell():
                    if self.session:
                        self.to_sender.append(action.record)
                case ReleaseBlocks():
                    assert self.admitted is None
                    open_blocks = {
                        block
                        for tag, blocks in self.open_receives.items() if tag not in self.detached
                        for block in blocks
                    }
                    assert open_blocks == set(action.quarantine), "a block given back while open"
                    self.quarantined |= open_blocks
                    self.d_released = True
                case Detach():
                    assert self.scheme.staged
                    self.detached.add(action.tag)
                case EndQuarantine():
                    for block in action.blocks:
                        self.quarantined.remove(block)
                case Admit():
                    assert not self.open_receives
                    assert not self.d_released
                    self.admitted = action.tokens
                case Ended():
                    self.d_ended.append(action)

    # -- moves -------------------------------------------------------------------------------

    def start(self) -> None:
        if not self.started:
            self.started = True
            self.do_p(self.sender.on_start(self.now))

    def reserve(self) -> None:
        if not self.reserved:
            self.reserved = True
            blocks = tuple(100 + i for i in range(self.num_blocks))
            self.do_d(self.receiver.on_reserved(blocks, self.cached, self.now))

    def connect(self) -> None:
        if not self.session:
            self.session = True
            self.do_d(self.receiver.on_session(self.scheme, self.now))

    def compute(self, finished: bool = False) -> None:
        if self.started and self.chunks:
            self.computed += self.chunks.popleft()
            done = not self.chunks
            blocks = tuple(range(self.num_blocks))
            self.do_p(self.sender.on_progress(
                blocks, min(self.computed, self.num_blocks), done=done,
                tokens=(42,) if done else (), finished=finished and done, now=self.now))

    def deliver_to_sender(self) -> None:
        if self.to_sender:
            match self.to_sender.popleft():
                case Grant() as grant:
                    self.do_p(self.sender.on_grant(grant, self.now))
                case Revoke() as revoke:
                    forgotten = (
                        self.sender.state is SenderState.DONE and not self.sender.lingers
                    )
                    self.do_p(
                        list(answer_unknown(revoke))
                        if forgotten
                        else self.sender.on_revoke(revoke)
                    )
                case Ack() as ack:
                    self.do_p(self.sender.on_ack(ack.operation))

    def deliver_to_receiver(self) -> None:
        if self.to_receiver:
            match self.to_receiver.popleft():
                case Sealed() as sealed:
                    self.do_d(self.receiver.on_sealed(sealed, self.now))
                case Aborted() as aborted:
                    self.do_d(self.receiver.on_aborted(aborted.operation, aborted.reason))

    def complete_send(self, error: bool = False) -> None:
        if self.unconfirmed_sends:
            send = self.unconfirmed_sends.pop(0)
            broken = ConnectionError() if error else None
            self.do_p(self.sender.on_send_done(send.tag, broken, self.now))

    def complete_receive(self) -> None:
        for tag, blocks in self.open_receives.items():
            if tag in self.sent:
                del self.open_receives[tag]
                if tag not in self.detached:
                    for block, content in zip(blocks, self.sent[tag], strict=False):
                        assert block in self.quarantined or not self.d_released
                        self.d_blocks[block] = content
                self.do_d(self.receiver.on_receive_done(tag, None, self.now))
                return

    def lose_session(self) -> None:
        if self.session:
            self.session = False
            self.to_sender.clear()
            self.to_receiver.clear()
            self.do_p(self.sender.on_peer_lost())
            self.do_d(self.receiver.on_peer_lost())

    def expire(self) -> None:
        self.now += 31
        self.do_p(self.sender.on_time(self.now))
        self.do_d(self.receiver.on_time(self.now))

    def settle(self) -> None:
        """Let everything that is under way arrive, then let time end the rest."""
        for _ in range(3):
            for _ in range(200):
                self.deliver_to_sender()
                self.deliver_to_receiver()
                self.complete_send()
                self.complete_receive()
            self.expire()

    def check_end(self) -> None:
        assert self.sender.state is SenderState.DONE
        assert self.receiver.state in (ReceiverState.DONE, ReceiverState.ADMITTED)
        assert self.p_released
        assert self.d_released != (self.admitted is not None)
        assert not self.quarantined | self.p_quarantined
        assert not self.open_receives
        assert len(self.p_ended) == 1
        assert len(self.d_ended) == 1
        if self.admitted is not None:
            lacking = range(self.cached, self.num_blocks)
            assert {100 + i: self.d_blocks[100 + i] for i in lacking} == {
                100 + i: i for i in lacking
            }
            assert self.admitted == (42,)


MOVES = [
    "start", "reserve", "connect", "compute", "compute", "compute", "deliver_to_sender",
    "deliver_to_receiver", "deliver_to_sender", "deliver_to_receiver", "complete_send",
    "complete_receive", "complete_send", "complete_receive",
]
TROUBLE = ["cancel_p", "cancel_d", "lose_session", "expire", "send_error", "finish"]


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(0, 6)),
    scheme=st.sampled_from([DIRECT, Scheme(1, True), Scheme(2, True), Scheme(4, True)]),
    moves=st.lists(st.sampled_from(MOVES) | st.sampled_from(MOVES * 2 + TROUBLE), max_size=60),
)
def test_every_schedule_ends_clean(
    shape: tuple[int, int], scheme: Scheme, moves: list[str]
) -> None:
    num_blocks, cached = shape
    world = World(num_blocks, min(cached, num_blocks), [2] * ((num_blocks + 1) // 2), scheme)
    for move in moves:
        match move:
            case "cancel_p":
                world.do_p(world.sender.on_cancel())
            case "cancel_d":
                world.do_d(world.receiver.on_cancel())
            case "send_error":
                world.complete_send(error=True)
            case "finish":
                world.compute(finished=True)
            case _:
                getattr(world, move)()
    world.start()
    world.reserve()
    world.connect()
    world.settle()
    world.check_end()


def undisturbed(num_blocks: int = 4, cached: int = 1) -> World:
    world = World(num_blocks, cached, [2, 2])
    for move in ("start", "reserve", "connect", "compute", "compute"):
        getattr(world, move)()
    for _ in range(10):
        for move in ("deliver_to_sender", "complete_send", "complete_receive",
                     "deliver_to_receiver"):
            getattr(world, move)()
    return world


def test_undisturbed_hand_off_is_admitted_and_acknowledged() -> None:
    world = undisturbed()
    world.check_end()
    assert world.admitted == (42,)
    assert world.p_ended == [Ended("acked", reroute=False)]


def test_everything_cached_seals_without_a_transfer() -> None:
    world = undisturbed(num_blocks=3, cached=3)
    assert world.admitted == (42,)
    assert world.sent == {}


def test_blocks_travel_before_the_prefill_ends() -> None:
    world = World(4, 0, [2, 2])
    for move in ("start", "reserve", "connect", "deliver_to_sender", "compute"):
        getattr(world, move)()
    assert [send.blocks for send in world.unconfirmed_sends] == [(0,), (1,)]


def test_a_message_waits_for_the_last_of_its_blocks() -> None:
    world = World(5, 0, [3, 2], Scheme(2, True))
    for move in ("start", "reserve", "connect", "deliver_to_sender", "compute"):
        getattr(world, move)()
    assert [send.blocks for send in world.unconfirmed_sends] == [(0, 1)]
    world.compute()
    assert [send.blocks for send in world.unconfirmed_sends] == [(0, 1), (2, 3), (4,)]


def test_grant_before_prefill() -> None:
    world = World(2, 0, [2])
    for move in ("reserve", "connect", "deliver_to_sender", "start", "compute"):
        getattr(world, move)()
    assert len(world.unconfirmed_sends) == 2


def test_a_late_grant_is_answered_with_zero_bytes() -> None:
    world = World(2, 0, [2])
    world.connect()
    world.start()
    world.do_p(world.sender.on_cancel())
    assert world.sender.lingers
    world.reserve()
    world.deliver_to_sender()
    assert list(world.sent.values()) == [(), ()]
    assert not world.sender.lingers


def test_a_seal_of_another_life_is_ignored() -> None:
    world = World(1, 0, [1])
    for move in ("start", "reserve", "connect", "deliver_to_sender", "compute",
                 "complete_receive"):
        getattr(world, move)()
    stale = Sealed(key=KEY, operation=7, epoch=P.epoch + 1, tokens=(13,))
    assert world.receiver.on_sealed(stale, 0.0) == []
    other = Sealed(key=KEY, operation=8, epoch=P.epoch, tokens=(13,))
    assert world.receiver.on_sealed(other, 0.0) == []
    assert world.admitted is None


def test_quarantine_ends_when_the_process_is_gone() -> None:
    world = World(2, 0, [2])
    world.reserve()
    world.connect()
    world.do_d(world.receiver.on_peer_lost())
    assert world.quarantined == {100, 101}
    world.do_d(world.receiver.on_peer_gone())
    assert not world.quarantined
    assert world.receiver.state is ReceiverState.DONE


def test_a_grant_lost_with_its_session_is_answered_after_the_next() -> None:
    world = World(2, 0, [2])
    for move in ("reserve", "connect", "lose_session"):
        getattr(world, move)()
    assert world.quarantined == {100, 101}
    world.connect()
    world.settle()
    assert not world.quarantined
    assert world.receiver.state is ReceiverState.DONE


def test_a_sender_that_cannot_be_reached_is_given_up_long_before_the_lease_ends() -> None:
    """Its client may have had the first token already, and waits."""
    issue_tags = count(1).__next__
    for reached in (False, True):
        receiver = Receiver(
            KEY, P, operation=1, num_blocks=2, issue_tags=lambda n: issue_tags(), now=0.0,
            lease=30.0,
        )
        receiver.on_reserved((100, 101), 0, 10.0)
        if reached:
            receiver.on_session(DIRECT, 10.0)
        assert receiver.on_time(10.0 + SESSION_GRACE - 0.1) == []
        ended = [a for a in receiver.on_time(10.0 + SESSION_GRACE) if isinstance(a, Ended)]
        assert ended == ([] if reached else [Ended("expired", reroute=True)])

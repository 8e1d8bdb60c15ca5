"""Two or three whole workers and a router in the worst weather: every message, every operation and
every thread waits until the seeded storm lets it go on.

    Storm(seed).run()    raises AssertionError, with the seed and the last moves, when an invariant
                         is violated on the way or when something is left at the end

Checked all the time: no block is given back under an operation that may touch it, what arrives
lands in blocks with one owner, no tag gets blocks twice, every sequence reads what was computed
for it (the runner knows), tokens come once, in order, and are the undisturbed ones. At the end:
every request has ended, every awaited message was answered, nothing is held or quarantined.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from storm_links import StormSession
from storm_router import ROUTER, StormRouter
from storm_wire import Receive, Send, Wire
from storm_worker import Life

from baton.protocol.records import DIRECT, Scheme

T = TypeVar("T")

SCHEMES = (DIRECT, Scheme(2), Scheme(3), Scheme(1, True), Scheme(2, True), Scheme(4, True))


class Storm:
    """`trouble`: the share of moves that are faults."""

    def __init__(self, seed: int, moves: int = 160, trouble: float | None = None) -> None:
        rng = self.rng = Random(seed)
        self.seed = seed
        self.num_moves = moves
        self.trouble = rng.choice((0.0, 0.03, 0.1)) if trouble is None else trouble
        self.now = 0.0
        self.wire = Wire()
        self.lives: list[Life] = []
        self.unequal = rng.random() < 0.2
        self.checksums = rng.random() < 0.3
        self.num_layers = rng.choice((1, 2, 3, 5))
        self.trace: list[str] = []
        names = "ab" if rng.random() < 0.7 else "abc"
        self.current = {name: self._new_life(name) for name in names}
        self.unheard: list[tuple[Life, Life]] = []
        self.router = StormRouter(rng, dict(self.current))
        self.sessions: list[StormSession] = []
        self.max_requests = rng.randrange(2, 7)
        self._moves: tuple[tuple[Callable[[], bool], int], ...] = (
            (self.begin, 5), (self.deliver_order, 14), (self.hear_worker, 10), (self.engine, 16),
            (self.hear_engine, 12), (self.connect, 8), (self.deliver, 16), (self.match, 7),
            (self.end_send, 5), (self.end_receive, 6), (self.turn, 6), (self.tick, 2),
            (self.hear_loss, 5), (self.hear_death, 3), (self.migrate, 3))
        self._faults: tuple[Callable[[], bool], ...] = (
            self.fail_send, self.fail_receive, self.stick, self.lose_empty, self.corrupt,
            self.fail_step)
        self._disasters: tuple[Callable[[], bool], ...] = (
            self.cancel, self.cancel, self.break_session, self.break_session, self.repeat,
            self.repeat, self.expire, self.kill)

    def run(self) -> Storm:
        try:
            moves = [move for move, _ in self._moves]
            weights = [weight for _, weight in self._moves]
            for move in self.rng.choices(moves, weights, k=self.num_moves):
                if self.trouble and self.rng.random() < self.trouble:
                    move = self._fault
                if move():
                    self.trace.append(move.__name__)
            self.settle()
            self.check_end()
        except Exception as error:
            last = ", ".join(self.trace[-40:])
            raise AssertionError(f"storm {self.seed}: {error!r}\nlast moves: {last}") from error
        return self

    # -- moves: each says whether it did something -------------------------------------------

    def begin(self) -> bool:
        if len(self.router.flights) >= self.max_requests:
            return False
        self.router.begin()
        return True

    def migrate(self) -> bool:
        flights = [
            flight for flight in self.router.open
            if flight.decoder is not None and flight.migrating is None and flight.tokens
        ]
        if flights:
            self.router.migrate(self.rng.choice(flights))
        return bool(flights)

    def deliver_order(self) -> bool:
        life = self._one([life for life in self._alive() if life.inbox])
        if life is None:
            return False
        record = life.inbox.popleft()
        for _ in range(2 if self.trouble and self.rng.random() < 0.05 else 1):
            life.worker.on_record(ROUTER, record)
        return True

    def hear_worker(self) -> bool:
        life = self._one([life for life in self._alive() if life.links.outbox])
        if life is not None:
            self.router.hear(life, life.links.outbox.popleft())
        return life is not None

    def engine(self) -> bool:
        life = self.rng.choice(self._alive())
        return life.step()

    def hear_engine(self) -> bool:
        life = self._one([life for life in self._alive() if life.steps])
        if life is not None:
            life.hear_engine()
        return life is not None

    def turn(self) -> bool:
        life = self._one([life for life in self._alive() if life.turns])
        if life is not None:
            life.turn()
        return life is not None

    def connect(self) -> bool:
        waiting = [
            (life, channel)
            for life in self._alive()
            for channel in life.outgoing.channels.values()
            if channel.session is None and not self.current[channel.peer.peer_address].dead
        ]
        if not waiting:
            return False
        life, channel = self.rng.choice(waiting)
        target = self.current[channel.peer.peer_address]
        if target.identity != channel.peer.identity:
            life.outgoing.drop(channel.peer.identity, "another life")
            return True
        session = StormSession(life, target)
        self.sessions.append(session)
        target.incoming.opened(session)
        life.outgoing.opened(channel, session)
        return True

    def deliver(self) -> bool:
        ready = [
            (session, forth)
            for session in self.sessions
            for forth, queue in ((True, session.forth), (False, session.back))
            if queue
        ]
        if ready:
            session, forth = self.rng.choice(ready)
            session.deliver(forth)
        return bool(ready)

    def match(self) -> bool:
        send = self._one(self.wire.matchable())
        if send is not None:
            self.wire.match(send)
        return send is not None

    def end_send(self) -> bool:
        """One that was received, or is buffered."""
        send = self._one([send for send in self._open_sends() if not send.receiver.dead])
        if send is not None:
            self.wire.end_send(send)
        return send is not None

    def end_receive(self) -> bool:
        receive = self._one([r for r in self._open_receives() if r.matched])
        if receive is not None:
            self.wire.end_receive(receive)
        return receive is not None

    def tick(self) -> bool:
        self.now += self.rng.choice((0.1, 0.3, 1.1))
        for life in self._alive():
            life.sweep()
        return True

    def hear_loss(self) -> bool:
        """One side of a broken session hears of it."""
        sides = [
            (session, side)
            for session in self.sessions
            if session.broken
            for side in ("sender", "receiver")
            if self._knows(session, side)
        ]
        if not sides:
            return False
        self._lost(*self.rng.choice(sides))
        return True

    def hear_death(self) -> bool:
        if not self.unheard:
            return False
        dead, successor = self.unheard.pop(0)
        self.router.learn_of_death(dead, successor)
        return True

    # -- faults ------------------------------------------------------------------------------

    def _fault(self) -> bool:
        """One that is possible now."""
        faults = self.rng.sample(self._faults, 3) if self.rng.random() < 0.8 else []
        for fault in (*faults, self.rng.choice(self._disasters)):
            if fault():
                self.trace.append(fault.__name__)
                return False
        return False

    def cancel(self) -> bool:
        flight = self._one(self.router.open)
        if flight is not None:
            self.router.cancel(flight)
        return flight is not None

    def break_session(self) -> bool:
        session = self._one([session for session in self.sessions if not session.broken])
        if session is not None:
            session.break_off()
        return session is not None

    def fail_send(self) -> bool:
        send = self._one(self._open_sends())
        if send is not None:
            self.wire.end_send(send, ConnectionError("storm"))
        return send is not None

    def fail_receive(self) -> bool:
        receive = self._one([r for r in self._open_receives() if r.matched])
        if receive is not None:
            self.wire.end_receive(receive, OSError("storm"))
        return receive is not None

    def stick(self) -> bool:
        """An operation that never ends, as long as the other process lives."""
        operation = self._one([*self._open_sends(), *self._open_receives()])
        if operation is not None:
            operation.stuck = True
        return operation is not None

    def fail_step(self) -> bool:
        """The next one, or the one under way."""
        life = self.rng.choice(self._alive())
        life.fail_step = True
        return True

    def lose_empty(self) -> bool:
        """Zero bytes whose session is broken."""
        lost = [
            send for send in self.wire.sends
            if not send.blocks and not send.matched and not self._connected(send)
        ]
        send = self._one(lost)
        if send is not None:
            self.wire.lose_empty(send)
        return send is not None

    def expire(self) -> bool:
        self.now += 31
        for life in self._alive():
            life.sweep()
        return True

    def kill(self) -> bool:
        """Kill -9, and a successor at the same address."""
        if len(self.lives) < 6:
            self._kill(self.rng.choice(list(self.current.values())))
        return True

    def repeat(self) -> bool:
        sessions = [session for session in self.sessions if session.old and not session.broken]
        session = self._one(sessions)
        if session is not None:
            session.hand_over(*self.rng.choice(session.old))
        return session is not None

    def corrupt(self) -> bool:
        """Only where checksums have to notice it."""
        send = self._one([send for send in self.wire.matchable() if send.blocks])
        if send is None or not self.checksums:
            return False
        self.wire.match(send, corrupt=True)
        return True

    # -- the end -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Everything that can still happen does; what never ends is ended by a death."""
        self._quiet()
        for _ in range(2):
            if not self.wire.sends and not self.wire.receives:
                return
            stuck = [send for send in self.wire.sends if send.stuck]
            for send in stuck:
                if not send.receiver.dead:
                    self._kill(send.receiver)
            for receive in list(self.wire.receives.values()):
                if receive.stuck:
                    for life in list(self.current.values()):
                        if life is not receive.life and not life.dead:
                            self._kill(life)
            self._quiet()

    def _quiet(self) -> None:
        """Until nothing moves any more, leases and lingering hand-offs included."""
        moves = (
            self.deliver_order, self.hear_worker, self.hear_engine, self.turn, self.connect,
            self.deliver, self.match, self.end_receive, self.hear_loss, self.hear_death)
        for round_number in range(8):
            moved = True
            while moved:
                moved = False
                for move in moves:
                    while move():
                        moved = True
                for send in [send for send in self.wire.sends if not send.over]:
                    if send.receiver.dead:
                        self.wire.end_send(send, ConnectionResetError("storm"))
                        moved = True
                    elif send.matched and not send.stuck:
                        self.wire.end_send(send)
                        moved = True
                for life in self._alive():
                    moved = life.step() or moved
            if not any(life.commands or life.worker.prefill.active or life.worker.decode.active
                       for life in self._alive()):
                return
            self.now += 1.2 if round_number < 2 else 31
            for life in self._alive():
                life.sweep()

    def check_end(self) -> None:
        assert not self.router.open, f"{[flight.name for flight in self.router.open]} never ended"
        for life in self._alive():
            life.check_nothing_held()
        awaited = [receive.tag for receive in self.wire.receives.values()]
        assert not awaited, f"tags {awaited} were never answered"
        sending = [send.tag for send in self.wire.sends if not send.over]
        assert not sending, f"sends to {sending} never ended"

    # -- inside ------------------------------------------------------------------------------

    def _new_life(self, name: str) -> Life:
        number = len(self.lives) + 1
        life = Life(
            name, number, wire=self.wire, clock=lambda: self.now,
            is_dead=lambda n: self.lives[n - 1].dead, first_tag=number * 10_000,
            num_blocks=self.rng.choice((10, 14, 24)),
            block_size=self.rng.choice((2, 3, 4)) if self.unequal else 2,
            scheme=self.rng.choice(SCHEMES),
            checksums=self.checksums,
            num_layers=self.num_layers,
            layer_groups=self.rng.choice((1, 2, 3, 5)),
            step_by_step=lambda: self.rng.random() < 0.7)
        self.lives.append(life)
        return life

    def _kill(self, life: Life) -> None:
        life.dead = True
        self.wire.died(life)
        for session in self.sessions:
            if life in (session.sender, session.receiver):
                session.break_off()
        successor = self.current[life.name] = self._new_life(life.name)
        self.unheard.append((life, successor))

    def _alive(self) -> list[Life]:
        return list(self.current.values())

    def _one(self, candidates: list[T]) -> T | None:
        return self.rng.choice(candidates) if candidates else None

    def _open_sends(self) -> list[Send]:
        return [send for send in self.wire.sends if not send.over and not send.stuck]

    def _open_receives(self) -> list[Receive]:
        return [receive for receive in self.wire.receives.values() if not receive.stuck]

    def _knows(self, session: StormSession, side: str) -> bool:
        """Whether this side still takes the session for its own."""
        if side == "sender":
            channel = session.sender.outgoing.channels.get(session.receiver.identity)
            return not session.sender.dead and channel is not None and channel.session is session
        known = session.receiver.incoming.sessions.get(session.sender.identity)
        return not session.receiver.dead and known is session

    def _lost(self, session: StormSession, side: str) -> None:
        if side == "sender":
            session.sender.outgoing.drop(session.receiver.identity, "lost")
        else:
            session.receiver.incoming.lost(session)

    def _connected(self, send: Send) -> bool:
        return any(
            not session.broken
            and session.sender is send.sender and session.receiver is send.receiver
            for session in self.sessions
        )

"""The end of a control session that dials, and keeps trying until it is closed.

    resolve --> attempt --Welcome--> session --lost--> resolve ...
                   |--Refuse, no answer in time--> back-off --> resolve (next address)

While a session is open ZeroMQ restores a broken connection underneath it. A lost session is
followed by an attempt with a fresh hello, on a new socket and at a freshly resolved address.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

import zmq

from baton.protocol.ids import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, Identity
from baton.protocol.link.address import resolve, split_tcp
from baton.protocol.link.ends import GOODBYE, LossCause
from baton.protocol.link.frames import (
    ATTEMPT_BITS,
    AnyFrame,
    ByeFrame,
    HelloFrame,
    RefuseFrame,
    WelcomeFrame,
    decode_frame,
    encode_frame,
)
from baton.protocol.link.hello import hello_identity, hello_process, with_process
from baton.protocol.link.process_watch import LAST_WORDS, ProcessWatch
from baton.protocol.link.pump import Pump, new_socket
from baton.protocol.link.session import Session
from baton.protocol.link.settings import LinkSettings
from baton.protocol.link.stats import LinkStats
from baton.protocol.link.watch import ConnectionWatch
from baton.protocol.records import Record
from baton.protocol.wire import MalformedRecord, from_wire, pack, to_wire, unpack

log = logging.getLogger(__name__)

RECONNECT_MS = 50
RECONNECT_MAX_MS = 200
"""Well within `reconnect_grace`."""


class Dialer:
    """Keeps one session to `address`. `hello()` is asked for each attempt; `on_session` gets each
    session that was accepted, with the peer's hello; `on_refused` each refusal's reason (the
    dialer keeps trying)."""

    def __init__(
        self,
        identity: Identity,
        address: str,
        hello: Callable[[], Record],
        on_session: Callable[[Session], None],
        on_refused: Callable[[str], None] | None = None,
        *,
        settings: LinkSettings | None = None,
    ) -> None:
        split_tcp(address)  # a malformed address is an error now, not a retry for ever
        self.identity = identity
        self.address = address
        self.stats = LinkStats(f"dialer of {identity.node_id} to {address}")
        self._hello = hello
        self._on_session = on_session
        self._on_refused = on_refused
        self._settings = settings or LinkSettings()
        self._next_session = secrets.randbits(63 - ATTEMPT_BITS) << ATTEMPT_BITS
        self._task: asyncio.Task[None] | None = None
        self.attempt: Attempt | None = None
        self._turn = 0
        self._farewell = GOODBYE

    def start(self) -> None:
        """Begin dialing, from the running loop. Raises RuntimeError when called twice."""
        if self._task is not None:
            raise RuntimeError("the dialer was started before")
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self, reason: str = GOODBYE) -> None:
        """Stop for good; the session's `on_lost` is called before this returns. `reason`: what the
        peer is told; whoever fails says so instead of good-bye. Idempotent."""
        self._farewell = reason
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def is_open(self) -> bool:
        """Whether there is a session now."""
        return self.attempt is not None and self.attempt.is_open

    def next_session(self) -> int:
        """Ids count up, so that the other end can tell an attempt that was given up from the one
        that took its place, in whichever order it comes to read them."""
        self._next_session += 1
        return self._next_session

    async def _run(self) -> None:
        backoff = self._settings.dial_backoff
        while True:
            started = asyncio.get_running_loop().time()
            outcome = await self._try_once()
            if outcome == "refused":
                backoff = self._settings.dial_backoff_max
            elif asyncio.get_running_loop().time() - started > self._settings.dial_backoff_max / 2:
                backoff = self._settings.dial_backoff  # that took its time; only haste is curbed
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, self._settings.dial_backoff_max)

    async def _try_once(self) -> str:
        """One attempt, and the session that comes of it: "lost", "refused" or "silent"."""
        try:
            addresses = await resolve(self.address)
        except OSError as error:
            log.info("%s: cannot resolve the name: %s", self.stats.name, error)
            return "silent"
        numeric = addresses[self._turn % len(addresses)]
        self._turn += 1
        try:
            hello = pack(to_wire(with_process(self._hello())))
        except Exception:
            log.exception("%s: no hello to send", self.stats.name)
            return "silent"
        self.attempt = Attempt(self, numeric, hello, self._settings)
        try:
            return await self.attempt.ended
        finally:
            self.attempt.close(self._farewell)
            self.attempt = None

    def accepted(self, session: Session) -> None:
        self._turn -= 1  # this address is good: the first to try when the session is lost
        self._on_session(session)

    def refused(self, reason: str) -> None:
        self.stats.refused += 1
        log.warning("%s: refused: %s", self.stats.name, reason)
        if self._on_refused is not None:
            self._on_refused(reason)


class Attempt:
    """One socket: hellos until an answer, then the session. `ended` gets the outcome."""

    def __init__(self, dialer: Dialer, numeric: str, hello: bytes, settings: LinkSettings) -> None:
        self._dialer = dialer
        self._settings = settings
        self._session_id = dialer.next_session()
        self._session: Session | None = None
        self._process: ProcessWatch | None = None
        self._connected = False
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        frame = HelloFrame(PROTOCOL_VERSION, self._session_id, OLDEST_PROTOCOL_VERSION, hello)
        self._hello = encode_frame(frame)
        socket = new_socket(zmq.DEALER, numeric)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        self.pump = Pump(socket, self._on_message, self._on_pass)
        self._watch = ConnectionWatch(socket, self._on_connection)
        socket.connect(numeric)
        self._give_up_at = self.pump.now() + settings.dial_attempt
        self._hello_due = 0.0

    def close(self, reason: str = GOODBYE) -> None:
        if self._session is not None:
            self._session.close(reason)
            self._poll(self._session, self.pump.now())
        if self._process is not None:
            self._process.close()
        self._watch.close()
        self.pump.close()

    @property
    def is_open(self) -> bool:
        return self._session is not None and self._session.is_open

    def _end(self, outcome: str) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)

    def _on_message(self, parts: list[bytes]) -> None:
        if len(parts) != 1:
            self._dialer.stats.malformed(f"message of {len(parts)} parts")
            return
        try:
            frame = decode_frame(parts[0])
            if frame.session != self._session_id:
                return  # an answer to an attempt before this one
            if self._session is None:
                self._take_answer(frame)
            elif not isinstance(frame, WelcomeFrame):
                self._session.receive(frame, self.pump.now())
        except MalformedRecord as error:
            self._dialer.stats.malformed(str(error))

    def _take_answer(self, frame: AnyFrame) -> None:
        """Data that overtakes a lost Welcome is dropped here, and sent again by the peer."""
        match frame:
            case WelcomeFrame():
                if not OLDEST_PROTOCOL_VERSION <= frame.version <= PROTOCOL_VERSION:
                    self._dialer.refused(f"the peer chose protocol version {frame.version}")
                    self._end("refused")
                    return
                record = from_wire(unpack(frame.record))
                hello_identity(record)
                self._session = Session(
                    self._session_id,
                    frame.version,
                    record,
                    now=self.pump.now(),
                    notify=self.pump.wake,
                    settings=self._settings,
                    stats=self._dialer.stats,
                )
                process = hello_process(record)
                if process is not None:
                    self._process = ProcessWatch(process, self._on_death)
                self._dialer.accepted(self._session)
            case RefuseFrame():
                self._dialer.refused(frame.reason)
                self._end("refused")
            case ByeFrame():
                self._end("silent")
            case _:
                pass

    def _on_death(self) -> None:
        asyncio.get_running_loop().call_later(LAST_WORDS, self._bury)

    def _bury(self) -> None:
        self.pump.drain()
        if self._session is not None:
            self._session.lose("the process of the peer has died", LossCause.PROCESS)
            self.pump.wake()

    def _on_connection(self, connected: bool) -> None:
        self._connected = connected
        self._hello_due = 0.0
        if self._session is not None:
            if connected:
                self._session.connection_changed(self.pump.now())
            else:
                self._session.connection_broken(self.pump.now())
        self.pump.wake()

    def _on_pass(self, now: float) -> float:
        if self._session is not None:
            self._poll(self._session, now)
            return self._session.next_deadline()
        if now >= self._give_up_at:
            self._end("silent")
        if self.ended.done():
            return float("inf")
        if not self._connected:
            return self._give_up_at
        if now >= self._hello_due:
            self.pump.send([self._hello])
            self._hello_due = now + self._settings.ping_interval
        return min(self._give_up_at, self._hello_due)

    def _poll(self, session: Session, now: float) -> None:
        for frame in session.poll(now):
            if self._connected:  # otherwise it is sent again after the connection is back
                self.pump.send([encode_frame(frame)])
        if not session.is_open:
            self._end("lost")

"""The end of control sessions that waits to be dialed.

    Hello --on_session accepts--> session --new Hello of the same node, Bye, silence--> lost

One session per node: a new one (another epoch, or the same one dialing afresh) ends the old one
first. An epoch that was replaced by another is refused from then on, so that a process that was
given up and woke up again does not push its successor out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

import zmq

from baton.protocol.errors import BatonError, ConfigError
from baton.protocol.ids import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, Identity
from baton.protocol.link.address import ipc_is_served, resolve, split_tcp
from baton.protocol.link.ends import GOODBYE, LossCause
from baton.protocol.link.frames import (
    ATTEMPT_BITS,
    ByeFrame,
    Frame,
    HelloFrame,
    RefuseFrame,
    WelcomeFrame,
    decode_frame,
    encode_frame,
)
from baton.protocol.link.hello import hello_identity, hello_process, hello_receiver, with_process
from baton.protocol.link.process_watch import LAST_WORDS, ProcessWatch
from baton.protocol.link.pump import Pump, new_socket
from baton.protocol.link.session import Session
from baton.protocol.link.settings import LinkSettings
from baton.protocol.link.stats import LinkStats
from baton.protocol.link.watch import ConnectionWatch
from baton.protocol.records import Record
from baton.protocol.wire import MalformedRecord, from_wire, pack, to_wire, unpack

log = logging.getLogger(__name__)

RETIRED_EPOCHS = 4096
"""How many replaced epochs are remembered."""


PROBE_DELAYS = (0.02, 0.2)
"""Seconds after some connection broke at which something is said to everyone."""


class _Line:
    """A session and the way back to its peer."""

    def __init__(self, session: Session, peer: Identity, route: bytes, welcome: bytes) -> None:
        self.session = session
        self.peer = peer
        self.route = route
        self.welcome = welcome
        self.process: ProcessWatch | None = None

    def end(self) -> None:
        if self.process is not None:
            self.process.close()


class Listener:
    """Accepts sessions. `on_session` gets each new one with its `peer_hello` set and returns our
    hello, or raises BatonError or ConfigError to refuse it by name."""

    def __init__(
        self,
        identity: Identity,
        on_session: Callable[[Session], Record | None],
        *,
        settings: LinkSettings | None = None,
    ) -> None:
        self.identity = identity
        self.stats = LinkStats(f"listener of {identity.node_id}")
        self._on_session = on_session
        self._settings = settings or LinkSettings()
        self._lines: dict[int, _Line] = {}
        self._by_node: dict[str, _Line] = {}
        self._retired: OrderedDict[Identity, None] = OrderedDict()
        self._touched: set[_Line] = set()
        self.pump: Pump | None = None
        self._connections: ConnectionWatch | None = None
        self._probes_at: list[float] = []
        self._next_sweep = 0.0

    async def bind(self, address: str) -> str:
        """Listen; the actual address is returned (port 0 picks one). Raises ConfigError when the
        address is malformed, taken or not of this machine."""
        tcp = split_tcp(address)
        try:
            numeric = (await resolve(address))[0]
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}: {error.strerror}") from error
        if tcp is None and ipc_is_served(address):
            raise ConfigError(f"cannot listen on {address}: it is in use by another process")
        socket = new_socket(zmq.ROUTER, numeric)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        connections = ConnectionWatch(socket, self._on_connection)
        try:
            socket.bind(numeric)
        except zmq.ZMQError as error:
            connections.close()
            socket.close()
            why = "it is in use" if error.errno == zmq.EADDRINUSE else error.strerror
            raise ConfigError(f"cannot listen on {address}: {why}") from error
        actual = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(actual, bytes)
        self._connections = connections
        self.pump = Pump(socket, self._on_message, self._on_pass)
        return actual.rstrip(b"\0").decode()

    async def close(self) -> None:
        """End all sessions (their `on_lost` is called before this returns) and stop listening.
        Idempotent."""
        if self.pump is None:
            return
        pump, self.pump = self.pump, None
        now = pump.now()
        for line in list(self._lines.values()):
            line.session.close(GOODBYE)
            line.end()
            for frame in line.session.poll(now):
                pump.send([line.route, encode_frame(frame)])
        self._lines.clear()
        self._by_node.clear()
        if self._connections is not None:
            self._connections.close()
        pump.close()

    # -- in ----------------------------------------------------------------------------------

    def _on_message(self, parts: list[bytes]) -> None:
        if len(parts) != 2:
            self.stats.malformed(f"message of {len(parts) - 1} parts")
            return
        route, data = parts
        try:
            frame = decode_frame(data)
        except MalformedRecord as error:
            self.stats.malformed(str(error))
            return
        line = self._lines.get(frame.session)
        if isinstance(frame, HelloFrame):
            if line is None:
                self._handshake(frame, route)
            else:  # our answer was lost, or is under way
                line.route = route
                self._send(route, line.welcome)
        elif line is None:
            if not isinstance(frame, ByeFrame):
                gone = ByeFrame(frame.version, frame.session, "the peer does not know this session")
                self._send(route, encode_frame(gone))
        else:
            assert self.pump is not None
            now = self.pump.now()
            if line.route != route:
                line.route = route
                line.session.connection_changed(now)
            line.session.receive(frame, now)
            self._touched.add(line)

    def _handshake(self, frame: HelloFrame, route: bytes) -> None:
        version = min(frame.version, PROTOCOL_VERSION)
        if version < max(frame.oldest, OLDEST_PROTOCOL_VERSION) or frame.oldest > frame.version:
            self._refuse(
                frame,
                route,
                f"protocol versions {frame.oldest} to {frame.version} are not spoken by "
                f"{self.identity.node_id}, which speaks {OLDEST_PROTOCOL_VERSION} to "
                f"{PROTOCOL_VERSION}",
            )
            return
        try:
            hello = from_wire(unpack(frame.record))
            peer = hello_identity(hello)
        except MalformedRecord as error:
            self.stats.malformed(f"hello: {error}")
            self._refuse(frame, route, f"malformed hello: {error}")
            return
        if peer in self._retired:
            self._refuse(frame, route, f"{peer.node_id} was replaced by a later start of itself")
            return
        if self._is_given_up(frame, peer):
            return
        meant = hello_receiver(hello)
        if meant is not None and meant != self.identity:
            # Taken for ours, it would end the session that this peer may have with us.
            self._refuse(frame, route, f"this is another life of {meant.node_id}")
            return
        self._end_previous(peer)
        self._accept(frame, route, version, hello, peer)

    def _accept(
        self, frame: HelloFrame, route: bytes, version: int, hello: Record, peer: Identity
    ) -> None:
        assert self.pump is not None
        session = Session(
            frame.session,
            version,
            hello,
            now=self.pump.now(),
            notify=lambda: self._touch(line),
            settings=self._settings,
            stats=self.stats,
        )
        line = _Line(session, peer, route, b"")
        try:
            answer = self._on_session(session)
            if answer is None:
                raise BatonError("internal_error", f"{self.identity.node_id} does not accept it")
        except (BatonError, ConfigError) as error:
            session.lose("refused")
            self._refuse(frame, route, str(error))
            return
        except Exception:
            # Our fault, perhaps a passing one, so no refusal: the dialer repeats its hello.
            log.exception("accepting a session from %s failed", peer.node_id)
            session.lose("failed")
            return
        welcome = WelcomeFrame(version, frame.session, pack(to_wire(with_process(answer))))
        line.welcome = encode_frame(welcome)
        process = hello_process(hello)
        if process is not None:
            line.process = ProcessWatch(process, lambda: self._on_death(line))
        self._lines[frame.session] = line
        self._by_node[peer.node_id] = line
        self._send(route, line.welcome)
        self._touch(line)

    def _is_given_up(self, frame: HelloFrame, peer: Identity) -> bool:
        """Whether a later attempt of the same dialer has a session already. After a pause of ours
        hellos of many attempts lie here, and only the last one still has a dialer behind it."""
        line = self._by_node.get(peer.node_id)
        if line is None or line.peer != peer:
            return False
        current = line.session.session_id
        return (
            frame.session >> ATTEMPT_BITS == current >> ATTEMPT_BITS and frame.session < current
        )

    def _end_previous(self, peer: Identity) -> None:
        line = self._by_node.get(peer.node_id)
        if line is None:
            return
        if line.peer == peer:
            line.session.lose("the peer dialed again")
        else:
            line.session.lose("the peer was started again", LossCause.PROCESS)
            self._retired[line.peer] = None
            while len(self._retired) > RETIRED_EPOCHS:
                self._retired.popitem(last=False)
        assert self.pump is not None
        self._poll(line, self.pump.now())

    def _refuse(self, frame: HelloFrame, route: bytes, reason: str) -> None:
        self.stats.refused += 1
        log.warning("%s: refused a session: %s", self.stats.name, reason)
        self._send(route, encode_frame(RefuseFrame(PROTOCOL_VERSION, frame.session, reason)))

    def _on_death(self, line: _Line) -> None:
        asyncio.get_running_loop().call_later(LAST_WORDS, self._bury, line)

    def _bury(self, line: _Line) -> None:
        if self.pump is not None:
            self.pump.drain()
        line.session.lose("its process has died", LossCause.PROCESS)
        self._touch(line)

    def _on_connection(self, connected: bool) -> None:
        """ZeroMQ does not say whose connection broke, and only sending finds it out. Its report
        may come just before the fact."""
        if not connected and self.pump is not None:
            now = self.pump.now()
            self._probes_at = [now + delay for delay in PROBE_DELAYS]
            self.pump.wake()

    # -- out ---------------------------------------------------------------------------------

    def _touch(self, line: _Line) -> None:
        self._touched.add(line)
        if self.pump is not None:
            self.pump.wake()

    def _send(self, route: bytes, data: bytes) -> bool:
        return self.pump is not None and self.pump.send([route, data])

    def _on_pass(self, now: float) -> float:
        if self._probes_at and now >= self._probes_at[0]:
            self._probes_at = [at for at in self._probes_at if at > now]
            for line in self._lines.values():
                line.session.say_something(now)
        if now >= self._next_sweep:
            self._touched.update(self._lines.values())
        touched, self._touched = self._touched, set()
        for line in touched:
            self._poll(line, now)
        deadlines = [line.session.next_deadline() for line in self._lines.values()]
        self._next_sweep = min(deadlines, default=float("inf"))
        return min(self._next_sweep, *self._probes_at, float("inf"))

    def _poll(self, line: _Line, now: float) -> None:
        frames: list[Frame] = line.session.poll(now)
        for frame in frames:
            if not self._send(line.route, encode_frame(frame)):
                line.session.connection_broken(now)
                break
        if not line.session.is_open:
            line.end()
            self._lines.pop(line.session.session_id, None)
            if self._by_node.get(line.peer.node_id) is line:
                del self._by_node[line.peer.node_id]

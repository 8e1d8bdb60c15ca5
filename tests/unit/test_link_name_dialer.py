"""Several listeners behind one name, names that change, and two addresses of one listener."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from baton.protocol.errors import ConfigError
from baton.protocol.ids import Identity, new_epoch
from baton.protocol.link import LinkSettings, Listener, NameDialer, Session, name_dialer
from baton.protocol.link.hello import hello_identity
from baton.protocol.records import Record, RouterHello, SetRole

FAST = LinkSettings(
    ping_interval=0.05, lost_after=100.0, reconnect_grace=100.0, ack_delay=0.02,
    dial_attempt=100.0, dial_backoff_max=0.1, resolve_interval=0.05,
)
"""Quick to speak and slow to despair: a test process that stands still for seconds has given
nobody up."""


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.005)


class Router:
    def __init__(self, name: str) -> None:
        self.identity = Identity(name, new_epoch())
        self.sessions: list[Session] = []
        self.received: list[str] = []
        self.listeners: list[Listener] = []

    async def listen(self) -> str:
        self.listeners.append(Listener(self.identity, self.accept, settings=FAST))
        return await self.listeners[-1].bind("tcp://127.0.0.1:0")

    def accept(self, session: Session) -> Record:
        for previous in self.sessions:  # as a router does: one session per worker
            previous.close("joined again")
        self.sessions.append(session)
        session.on_record = self.take
        return RouterHello(identity=self.identity)

    def take(self, record: Record) -> None:
        assert isinstance(record, SetRole)
        self.received.append(record.role)

    async def close(self) -> None:
        for listener in self.listeners:
            await listener.close()


class Name:
    """A name server with one name, and a worker that dials it."""

    def __init__(self, settings: LinkSettings) -> None:
        self.addresses: list[str] | None = []
        self.settings = settings
        self.asked = 0
        self.open: dict[str, Session] = {}
        self.lost: list[str] = []
        self.dialer = NameDialer(
            Identity("worker", new_epoch()), "tcp://routers:7000",
            lambda: RouterHello(identity=Identity("worker", 1)), self.opened,
            settings=settings,
        )

    async def resolve(self, address: str) -> list[str]:
        assert address == "tcp://routers:7000"
        self.asked += 1
        if self.addresses is None:
            raise OSError("no such name")
        return self.addresses

    def opened(self, session: Session) -> None:
        node = hello_identity(session.peer_hello).node_id
        self.open[node] = session

        def lost(reason: str) -> None:
            self.lost.append(node)
            if self.open.get(node) is session:
                del self.open[node]

        session.on_lost = lost

    async def looked_up(self, times: int = 3) -> None:
        """So many more times, whatever came of it."""
        goal = self.asked + times
        await until(lambda: self.asked >= goal)


@pytest.fixture
async def name(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Name]:
    made = Name(getattr(request, "param", FAST))
    monkeypatch.setattr(name_dialer, "resolve", made.resolve)
    made.dialer.start()
    yield made
    await made.dialer.close()
    assert made.open == {}


async def test_each_router_behind_a_name_has_its_session(name: Name) -> None:
    routers = [Router(f"r{number}") for number in range(3)]
    name.addresses = [await router.listen() for router in routers]
    await until(lambda: set(name.open) == {"r0", "r1", "r2"})
    for node, session in name.open.items():
        session.send(SetRole(role=node))
    await until(lambda: all(r.received == [r.identity.node_id] for r in routers))
    await name.looked_up()
    assert [len(router.sessions) for router in routers] == [1, 1, 1]
    for router in routers:
        await router.close()


async def test_routers_come_and_go(name: Name) -> None:
    first, second = Router("r0"), Router("r1")
    old, new = await first.listen(), await second.listen()
    name.addresses = [old]
    await until(lambda: set(name.open) == {"r0"})
    name.addresses = [new]
    await until(lambda: set(name.open) == {"r0", "r1"})
    await name.looked_up()
    assert name.dialer.dialed == {old, new}  # it may be only unready: its session is kept
    assert name.lost == []
    await first.close()
    await until(lambda: name.dialer.dialed == {new})
    assert set(name.open) == {"r1"}
    name.addresses = None
    await name.looked_up()
    assert set(name.open) == {"r1"}  # a name server that fails costs no session
    await second.close()


@pytest.mark.parametrize(
    "name", [FAST, replace(FAST, dial_backoff=100.0, dial_backoff_max=100.0)], indirect=True,
    ids=["in haste", "in no haste"],
)
async def test_two_addresses_of_one_router_make_one_session(name: Name) -> None:
    router = Router("r0")
    name.addresses = [await router.listen(), await router.listen()]
    sessions = -1
    deadline = time.monotonic() + 60.0
    while sessions != len(router.sessions):  # until they do not push each other out any more
        assert time.monotonic() < deadline
        await until(lambda: set(name.open) == {"r0"} and len(name.dialer.dialed) == 1)
        sessions = len(router.sessions)
        await name.looked_up(5)
    if name.settings.dial_backoff > 60.0:  # nobody dials again before the other was heard
        assert sessions == 2
    name.open["r0"].send(SetRole(role="x"))
    await until(lambda: router.received == ["x"])
    # When that address stops answering, the other one takes its place.
    (used,) = name.dialer.dialed
    (index,) = [i for i, address in enumerate(name.addresses) if address == used]
    await router.listeners[index].close()
    left = {name.addresses[1 - index]}
    await until(lambda: name.dialer.dialed == left and set(name.open) == {"r0"})
    await router.close()


def test_a_malformed_name_is_an_error_at_once() -> None:
    with pytest.raises(ConfigError):
        NameDialer(Identity("w", 1), "routers", lambda: RouterHello(identity=Identity("w", 1)),
                   lambda session: None)

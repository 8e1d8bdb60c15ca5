"""What the kernel says about processes of this host: real ones, killed, stopped and replaced."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import uvloop

from baton.protocol.ids import (
    Identity,
    ProcessRef,
    new_epoch,
    own_process,
    process_space,
    process_start,
)
from baton.protocol.link import (
    Dialer,
    LinkSettings,
    Listener,
    LossCause,
    ProcessWatch,
    Session,
    is_gone,
)
from baton.protocol.records import Record, RouterHello


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.002)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def ref_of(process: subprocess.Popen[bytes]) -> ProcessRef:
    return ProcessRef(process.pid, process_start(process.pid), process_space())


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def open_pidfds() -> int:
    links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum("pidfd" in link for link in links)


async def watch_a_death(child: subprocess.Popen[bytes]) -> None:
    deaths: list[float] = []
    before = open_pidfds()
    watch = ProcessWatch(ref_of(child), lambda: deaths.append(time.monotonic()))
    assert watch.is_watching
    assert not is_gone(ref_of(child))
    child.send_signal(signal.SIGSTOP)  # stopped is not dead: it may go on
    await asyncio.sleep(0.15)  # longer than a poll, so that a wrong word would be heard
    assert deaths == []
    ref = ref_of(child)
    child.kill()
    await until(lambda: bool(deaths))  # nobody has reaped it yet
    assert watch.gone
    assert not watch.is_watching
    assert is_gone(ref)
    child.wait()
    assert is_gone(ref)
    assert len(deaths) == 1
    watch.close()
    assert open_pidfds() == before


async def test_a_death_is_told_once(child: subprocess.Popen[bytes]) -> None:
    await watch_a_death(child)


def test_a_death_is_told_under_uvloop(child: subprocess.Popen[bytes]) -> None:
    async def run() -> None:
        deaths: list[int] = []
        ref = ref_of(child)
        ProcessWatch(ref, lambda: deaths.append(1))
        child.kill()
        await until(lambda: deaths == [1])

    uvloop.run(run())


@pytest.mark.parametrize("kind", ["refused", "unknown to Python"])
async def test_without_pidfd_it_is_polled(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.ENOSYS, "not implemented")

    if kind == "refused":
        monkeypatch.setattr(os, "pidfd_open", refuse)
    else:
        monkeypatch.delattr(os, "pidfd_open")
    await watch_a_death(child)


async def test_a_number_given_anew_is_another_process(child: subprocess.Popen[bytes]) -> None:
    earlier = msgspec.structs.replace(ref_of(child), started=process_start(child.pid) - 1)
    deaths: list[int] = []
    watch = ProcessWatch(earlier, lambda: deaths.append(1))
    assert watch.gone
    assert not watch.is_watching
    assert deaths == []  # not from inside the constructor
    await until(lambda: deaths == [1])
    assert is_gone(earlier)
    assert not is_gone(ref_of(child))


async def test_who_cannot_be_asked_about_is_never_said_to_be_gone() -> None:
    strangers = [
        own_process(),
        ProcessRef(1 << 22, 1, "another boot/pid:[1]"),
        ProcessRef(-1, 1, process_space()),
        ProcessRef(1 << 40, 1, process_space()),
    ]
    for process in strangers:
        watch = ProcessWatch(process, lambda: pytest.fail("said to be gone"))
        assert not watch.is_watching
        assert not watch.gone
        assert not is_gone(process)
    await asyncio.sleep(0)


async def test_a_closed_watch_is_silent(child: subprocess.Popen[bytes]) -> None:
    before = open_pidfds()
    watch = ProcessWatch(ref_of(child), lambda: pytest.fail("told after close"))
    told: list[int] = []
    ProcessWatch(ref_of(child), lambda: told.append(1))
    watch.close()
    watch.close()
    child.kill()
    await until(lambda: told == [1])
    assert open_pidfds() == before


# -- sessions --------------------------------------------------------------------------------

PATIENT = LinkSettings(
    ping_interval=30.0, lost_after=300.0, reconnect_grace=300.0, dial_attempt=300.0
)
"""Nothing but the kernel's word ends such a session in time."""

PEER = """
import asyncio, sys
from baton.protocol.ids import Identity, new_epoch
from baton.protocol.link import Dialer, LinkSettings, Listener
from baton.protocol.records import RouterHello

async def main(kind, address):
    me = Identity("peer", new_epoch())
    hello = RouterHello(identity=me)
    patient = LinkSettings(
        ping_interval=30.0, lost_after=300.0, reconnect_grace=300.0, dial_attempt=300.0
    )
    if kind == "dial":
        end = Dialer(me, address, lambda: hello, lambda session: None, settings=patient)
        end.start()
    else:
        end = Listener(me, lambda session: hello, settings=patient)
        print(await end.bind(address), flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def start_peer() -> AsyncIterator[Callable[[str, str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(kind: str, address: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(
            [sys.executable, "-P", "-c", PEER, kind, address], stdout=subprocess.PIPE, text=True
        ))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


class End:
    def __init__(self) -> None:
        self.identity = Identity("here", new_epoch())
        self.sessions: list[Session] = []
        self.lost: list[str] = []

    def take(self, session: Session) -> Record:
        self.sessions.append(session)
        session.on_lost = self.lost.append
        return RouterHello(identity=self.identity)


async def test_a_listener_loses_a_dialer_that_was_killed(
    start_peer: Callable[[str, str], subprocess.Popen[str]],
) -> None:
    end = End()
    listener = Listener(end.identity, end.take, settings=PATIENT)
    before = open_pidfds()
    peer = start_peer("dial", await listener.bind("tcp://127.0.0.1:0"))
    await until(lambda: bool(end.sessions))
    assert open_pidfds() == before + 1
    peer.kill()
    await until(lambda: bool(end.lost))
    assert end.sessions[0].cause is LossCause.PROCESS
    assert end.lost == ["its process has died"]
    assert open_pidfds() == before
    await listener.close()


async def test_a_dialer_loses_a_listener_that_was_killed(
    start_peer: Callable[[str, str], subprocess.Popen[str]],
) -> None:
    peer = start_peer("listen", "tcp://127.0.0.1:0")
    assert peer.stdout is not None
    address = (await asyncio.to_thread(peer.stdout.readline)).strip()
    end = End()
    dialer = Dialer(
        end.identity, address, lambda: RouterHello(identity=end.identity),
        lambda session: (end.take(session), None)[1], settings=PATIENT,
    )
    dialer.start()
    await until(lambda: bool(end.sessions))
    peer.kill()
    await until(lambda: bool(end.lost))
    assert end.sessions[0].cause is LossCause.PROCESS
    await dialer.close()

"""Children that start, fail, die, come back and are ended: real processes, stand-in work."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from baton.deploy import supervisor as module
from baton.deploy.status import StatusReport
from baton.deploy.supervisor import ChildSpec, ChildState, StartFailed, Supervisor

STAND_IN = """
import signal, sys
from baton.deploy import lifeline
from baton.deploy.status import StatusWriter

status = StatusWriter(int(sys.argv[-1]))
what = sys.stdin.buffer.readline().decode().strip()
lifeline.watch(0)
print("began with", what, flush=True)
if what == "fails":
    status.fatal("there is no\\nsuch model")
    sys.exit(1)
if what == "crashes":
    raise RuntimeError("something broke")
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
status.stage("loading", 0.5)
if what != "slow":
    status.ready(timings={"extra": 1.0}, address="here")
while True:
    signal.pause()
"""


class Recorder:
    def __init__(self) -> None:
        self.reports: list[tuple[str, StatusReport]] = []
        self.lines: list[tuple[str, str]] = []
        self.exits: list[tuple[str, str, float | None]] = []

    def on_report(self, name: str, report: StatusReport) -> None:
        self.reports.append((name, report))

    def on_line(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def on_exit(self, name: str, cause: str, restart_in: float | None) -> None:
        self.exits.append((name, cause, restart_in))


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., ChildSpec]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)

    def make(name: str, what: str = "serves", *, essential: bool = False) -> ChildSpec:
        argv = (sys.executable, "-P", str(script))
        return ChildSpec(name, argv, what.encode(), essential=essential)

    return make


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  (process states bring no event)
            await asyncio.sleep(0.01)


def pids(supervisor: Supervisor) -> list[int]:
    return [child.pid for child in supervisor.children.values() if child.pid is not None]


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_start_and_stop(spec: Callable[..., ChildSpec], recorder: Recorder) -> None:
    supervisor = Supervisor([spec("a"), spec("b")], recorder)
    await supervisor.start()
    running = pids(supervisor)
    assert len(running) == 2
    assert all(os.getpgid(pid) == pid for pid in running), "each leads its own group"
    assert supervisor.children["a"].ready is not None
    assert supervisor.children["a"].ready.address == "here"
    assert set(supervisor.children["a"].ready.timings) == {"loading", "extra"}
    assert ("a", StatusReport(stage="loading", fraction=0.5)) in recorder.reports
    assert ("b", "began with serves") in recorder.lines
    await supervisor.stop()
    assert not any(alive(pid) for pid in running)
    assert recorder.exits == []


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("fails", "there is no such model"),
        ("crashes", "exited with status 1; its last words: RuntimeError: something broke"),
    ],
)
async def test_a_failed_start_names_its_cause(
    spec: Callable[..., ChildSpec], recorder: Recorder, what: str, cause: str
) -> None:
    supervisor = Supervisor([spec("good"), spec("slow", "slow"), spec("bad", what)], recorder)
    with pytest.raises(StartFailed) as caught:
        await supervisor.start()
    assert str(caught.value) == f"bad: {cause}"
    running = pids(supervisor)
    await supervisor.stop()
    assert not any(alive(pid) for pid in running)


async def test_what_cannot_be_executed_fails_the_start(recorder: Recorder) -> None:
    supervisor = Supervisor([ChildSpec("a", ("/nonexistent/program",), b"")], recorder)
    with pytest.raises(FileNotFoundError):
        await supervisor.start()
    await supervisor.stop()


async def test_a_dead_child_is_started_again(
    spec: Callable[..., ChildSpec], recorder: Recorder
) -> None:
    supervisor = Supervisor([spec("a"), spec("b")], recorder)
    await supervisor.start()
    child = supervisor.children["a"]
    for expected in (0.2, 0.4):
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda first=first: child.pid not in (None, first))  # type: ignore[misc]
        await until(lambda: child.state is ChildState.SERVING)
        name, cause, delay = recorder.exits[-1]
        assert (name, delay) == ("a", expected)
        assert cause.startswith("killed by SIGKILL")
    assert supervisor.children["b"].state is ChildState.SERVING
    await supervisor.stop()


async def test_health_resets_the_delay(
    spec: Callable[..., ChildSpec], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEALTHY_AFTER", 0.0)
    supervisor = Supervisor([spec("a")], recorder)
    await supervisor.start()
    for count in (1, 2):
        await until(lambda: supervisor.children["a"].state is ChildState.SERVING)
        supervisor.children["a"].signal(signal.SIGKILL)
        await until(lambda count=count: len(recorder.exits) == count)  # type: ignore[misc]
    assert [delay for _, _, delay in recorder.exits] == [0.2, 0.2]
    await supervisor.stop()


async def test_no_restart(spec: Callable[..., ChildSpec], recorder: Recorder) -> None:
    supervisor = Supervisor([spec("router", essential=True), spec("a")], recorder, restart=False)
    await supervisor.start()
    useless = asyncio.create_task(supervisor.wait_essential_gone())
    supervisor.children["a"].signal(signal.SIGKILL)
    await until(lambda: supervisor.children["a"].state is ChildState.GONE)
    assert recorder.exits == [("a", recorder.exits[0][1], None)]
    await asyncio.sleep(0)
    assert not useless.done()
    supervisor.children["router"].signal(signal.SIGKILL)
    await asyncio.wait_for(useless, 60)
    await supervisor.stop()


async def test_a_deaf_child_is_killed(spec: Callable[..., ChildSpec], recorder: Recorder) -> None:
    supervisor = Supervisor([spec("a", "deaf"), spec("b")], recorder)
    await supervisor.start()
    running = pids(supervisor)
    await supervisor.stop(grace=0.2)
    assert not any(alive(pid) for pid in running)


async def test_stop_in_the_middle_of_everything(
    spec: Callable[..., ChildSpec], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One child still starting, one waiting to be started again."""
    monkeypatch.setattr(module, "FIRST_DELAY", 1000.0)
    supervisor = Supervisor([spec("slow", "slow"), spec("a")], recorder)
    starting = asyncio.create_task(supervisor.start())
    await until(lambda: supervisor.children["a"].state is ChildState.SERVING)
    await until(lambda: supervisor.children["slow"].pid is not None)
    supervisor.children["a"].signal(signal.SIGKILL)
    await until(lambda: supervisor.children["a"].state is ChildState.BACKING_OFF)
    running = pids(supervisor)
    starting.cancel()
    await supervisor.stop()
    assert not any(alive(pid) for pid in running)
    assert pids(supervisor) == []


async def test_pipes_are_closed(spec: Callable[..., ChildSpec], recorder: Recorder) -> None:
    async def run_once() -> None:
        supervisor = Supervisor([spec("a")], recorder)
        await supervisor.start()
        await supervisor.stop()

    await run_once()
    before = psutil.Process().num_fds()
    await run_once()
    await run_once()
    assert psutil.Process().num_fds() <= before

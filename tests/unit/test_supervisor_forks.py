"""A loader that does not fork when it is asked to: it has died and nobody knows yet, or stands
still. Whoever was to be forked comes from the next one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from baton.deploy import supervisor as module
from baton.deploy.processes import Forker, Process, execute
from baton.deploy.status import StatusReport
from baton.deploy.supervisor import ChildSpec, ChildState, Supervisor

STAND_IN = """
import signal, sys
from baton.deploy.status import StatusWriter

StatusWriter(int(sys.argv[sys.argv.index("--status-fd") + 1])).ready()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    signal.pause()
"""


class Exits:
    def __init__(self) -> None:
        self.names: list[str] = []

    def on_report(self, name: str, report: StatusReport) -> None: ...

    def on_line(self, name: str, line: str) -> None: ...

    def on_exit(self, name: str, cause: str, restart_in: float | None) -> None:
        self.names.append(name)


@pytest.mark.parametrize("error", [ConnectionResetError("it has ended"), TimeoutError()])
async def test_another_loader_forks(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    argv = (sys.executable, "-P", str(script))
    made: list[Forker] = []

    class Unreliable(Forker):
        """The first one's loader does not fork. The others' start a program instead."""

        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        async def fork(self, stdin: int, stdout: int, status: int) -> Process:
            if len(made) == 1:
                raise error
            command = [*argv, "--status-fd", str(status)]
            return await execute(command, None, stdin, stdout, [status])

    monkeypatch.setattr(module, "Forker", Unreliable)
    exits = Exits()
    supervisor = Supervisor([
        ChildSpec("loader", argv, b"", is_loader=True),
        ChildSpec("worker", (), b"", fork_of="loader"),
    ], exits)
    await supervisor.start()
    states = {name: child.state for name, child in supervisor.children.items()}
    assert states == {"loader": ChildState.SERVING, "worker": ChildState.SERVING}
    assert len(made) == 2
    assert exits.names == ["loader"], "what cannot fork is ended; nothing else is"
    await supervisor.stop()

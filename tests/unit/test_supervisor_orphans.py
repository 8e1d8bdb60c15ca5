"""Nothing outlives its launcher, not even when that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

CHILD = """
import os, signal, sys
from baton.deploy import lifeline
from baton.deploy.status import StatusWriter

os.read(0, 100)
if "pipe" in sys.argv:
    lifeline.watch(0)
else:
    lifeline.die_with_parent()
StatusWriter(int(sys.argv[-1])).ready()
print("pid", os.getpid(), flush=True)
while True:
    signal.pause()
"""

LAUNCHER = """
import asyncio, sys
from baton.deploy.supervisor import ChildSpec, Supervisor

class Printer:
    def on_report(self, name, report): pass
    def on_line(self, name, line): print(line, flush=True)
    def on_exit(self, *args): pass

async def main():
    argv = (sys.executable, "-P", sys.argv[1])
    specs = [ChildSpec(how, (*argv, how), b"x") for how in ("pipe", "signal")]
    await Supervisor(specs, Printer()).start()
    await asyncio.sleep(600)

asyncio.run(main())
"""


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_killing_the_launcher_ends_its_children(tmp_path: Path, signum: int) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    with subprocess.Popen(
        [sys.executable, "-P", str(tmp_path / "launcher.py"), str(tmp_path / "child.py")],
        stdout=subprocess.PIPE,
        text=True,
    ) as launcher:
        assert launcher.stdout is not None
        children = [int(launcher.stdout.readline().split()[1]) for _ in range(2)]
        assert all(alive(pid) for pid in children)
        os.kill(launcher.pid, signum)
        launcher.wait(60)
    wait_for(lambda: not any(alive(pid) for pid in children))

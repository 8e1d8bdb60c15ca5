"""What children leave behind is reaped, and nobody else's child is."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from baton.deploy.strangers import Strangers


def is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


def ended() -> int:
    """A child that has ended, and that nobody has waited for."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})
    deadline = time.monotonic() + 60
    while not is_zombie(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return pid


def test_a_zombie_is_reaped_at_the_second_look_unless_it_is_ours() -> None:
    strangers = Strangers()
    stranger, ours = ended(), ended()
    assert stranger not in strangers.reap({ours})
    assert stranger in strangers.reap({ours})
    assert not os.path.exists(f"/proc/{stranger}")
    assert os.waitpid(ours, 0) == (ours, 0)
    assert stranger not in strangers.reap(())


def test_who_runs_is_left_alone() -> None:
    strangers = Strangers()
    with subprocess.Popen(["sleep", "600"]) as running:
        assert running.pid not in strangers.reap(())
        assert running.pid not in strangers.reap(())
        assert running.poll() is None
        running.kill()

"""For tests of every kind."""

from __future__ import annotations

import asyncio
import resource
import runpy
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings
from steady_loop import SteadyLoops

MANY_DESCRIPTORS = 16_384


settings.register_profile(
    "any machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
"""How long an example takes says nothing: the machine may be slow, and stand still for seconds.
And each run tries the same ones."""


def pytest_configure() -> None:
    enough_descriptors()
    # Their clock stands still with the process: what waits on it has not been slow.
    asyncio.set_event_loop_policy(SteadyLoops())
    # Workers and ends of sessions in this process: it may be held up for longer than makes one
    # late, or silent. Tests of silence say how long it is.
    runpy.run_path(str(Path(__file__).parent / "support" / "patient" / "sitecustomize.py"))


def pytest_runtest_setup() -> None:
    """Ctrl-C is Python's own in each test. A shell's job in the background ignores it, as all that
    the tests start would; and loops of commands that ran in this process keep it for themselves."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def enough_descriptors() -> None:
    """UCX workers that close while something is under way are kept until the process exits, with
    some 15 descriptors each. Hundreds of tests in one process come to more than a shell's usual
    limit of 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MANY_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

"""A layout that runs: `baton up` from its start to its end, or a server that somebody else runs.

Every run gets a new cluster of ours, so caches are empty and nothing is learned from the run
before; and afterwards its journal says where the time of each request went.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from baton.bench.compare.layouts import Layout
from baton.bench.journals import read_accounts
from baton.protocol.errors import ConfigError
from baton.router.account import Account

_UP = (sys.executable, "-P", "-m", "baton.deploy.cli", "up", "--port", "0")
START_SECONDS = 600.0
END_SECONDS = 60.0


class LayoutFailed(ConfigError):
    """It did not start, or did not answer."""

    def __init__(self, layout: str, why: str) -> None:
        super().__init__(f"{layout}: {why}")


@dataclass
class Running:
    url: str
    model: str
    """As its API calls it."""
    accounts: list[Account] = field(default_factory=list)
    """What became of each request, by its router; here once the layout was ended, and never of a
    server that somebody else runs."""


Start = Callable[[Layout], AbstractContextManager[Running]]
"""What comparisons begin a run with; ended when the context is left."""


class Starter:
    """Starts layouts, one at a time. `close` ends what is left of them."""

    def __init__(self, common: Sequence[str]) -> None:
        """`common`: what `baton up` gets for every layout, such as the model and its dtype."""
        self.versions: dict[str, str] = {}
        """Of peers that ran and told theirs, by name."""
        self._common = list(common)
        self._kept: dict[str, tuple[Running, int]] = {}
        """Peers that were started, and their process ids."""
        self._stack = ExitStack()

    @contextmanager
    def __call__(self, layout: Layout) -> Iterator[Running]:
        """Raises LayoutFailed."""
        if layout.url is not None:
            running = Running(layout.url, model_of(layout))
            self._ask_version(layout, layout.url)
            yield running
        elif layout.command:
            with self._awake(layout) as running:
                yield running
        else:
            with tempfile.TemporaryDirectory(prefix="baton-compare-") as folder:
                journal = Path(folder) / "journal.jsonl"
                command = [*_UP, *self._common, *layout.options, "--journal", str(journal)]
                with _begun(layout, command) as (url, _):
                    running = Running(url, model_of(layout, url))
                    yield running
                if journal.exists():
                    running.accounts += read_accounts(journal)[0]

    def close(self) -> None:
        self._stack.close()

    @contextmanager
    def _awake(self, layout: Layout) -> Iterator[Running]:
        """Started once, for others take minutes to start; and stopped between its runs, for some
        poll while they have nothing to do, which would cost the others their cores."""
        if layout.name not in self._kept:
            url, process = self._stack.enter_context(_begun(layout, layout.command))
            self._stack.callback(_signal_all, process.pid, signal.SIGCONT)
            self._kept[layout.name] = Running(url, model_of(layout, url)), process.pid
            self._ask_version(layout, url)
        running, pid = self._kept[layout.name]
        _signal_all(pid, signal.SIGCONT)
        try:
            yield running
        finally:
            _signal_all(pid, signal.SIGSTOP)


    def _ask_version(self, layout: Layout, url: str) -> None:
        if layout.name not in self.versions and (version := version_of(url)) is not None:
            self.versions[layout.name] = version


def version_of(url: str) -> str | None:
    """As vLLM and those like it tell it at `/version`; None of servers that do not."""
    try:
        with urllib.request.urlopen(f"{url}/version", timeout=10) as reply:
            told = json.load(reply)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    version = told.get("version") if isinstance(told, dict) else None
    return str(version) if version else None


def model_of(layout: Layout, url: str | None = None) -> str:
    """The first of `/v1/models`. Raises LayoutFailed."""
    try:
        with urllib.request.urlopen(f"{url or layout.url}/v1/models", timeout=10) as reply:
            return str(json.load(reply)["data"][0]["id"])
    except (OSError, http.client.HTTPException, LookupError, ValueError) as error:
        raise LayoutFailed(layout.name, f"no answer to /v1/models: {error}") from error


@contextmanager
def _begun(
    layout: Layout, command: Sequence[str]
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The URL of a server that is ready, and its process. Raises LayoutFailed with what it said
    last."""
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, env={**os.environ, "COLUMNS": "200"},
        )
    except OSError as error:
        raise LayoutFailed(layout.name, f"cannot run {command[0]}: {error.strerror}") from error
    said: list[str] = []
    announced = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if _URL.search(line):
                announced.set()
        announced.set()  # it ended

    threading.Thread(target=read, daemon=True).start()
    try:
        announced.wait(START_SECONDS)
        url = next((found[0] for line in said if (found := _URL.search(line))), None)
        if url is None or (layout.ours and not _ready(url, process)):
            raise LayoutFailed(layout.name, "it did not start:\n" + "".join(said[-20:]))
        yield url, process
    finally:
        end(process)


def _ready(url: str, process: subprocess.Popen[str]) -> bool:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5) as reply:
                if reply.status == 200:
                    return True
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.05)
    return False


def _signal_all(pid: int, number: signal.Signals) -> None:
    """To a process and all below it."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in tree:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(number)


def end(process: subprocess.Popen[str]) -> None:
    """As the operator does it; by force when it takes too long, or longer than who waits wants."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
    except KeyboardInterrupt:
        _kill(process)  # it has a session of its own, so nobody else would
        raise


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


_URL = re.compile(r"http://[\d.]+:\d+")

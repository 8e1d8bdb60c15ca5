"""A layout that runs: `baton up` from its start to its end, or a server that somebody else runs.

Of a cluster of ours every run gets a new one, so caches are empty and nothing is learned from the
run before; and afterwards its journal says where the time of each request went.
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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from baton.bench.compare.layouts import Layout
from baton.protocol.errors import BatonError
from baton.router.account import Account

_UP = (sys.executable, "-P", "-m", "baton.deploy.cli", "up", "--port", "0")
START_SECONDS = 600.0
END_SECONDS = 60.0


class LayoutFailed(BatonError):
    """It did not start, or did not answer."""

    def __init__(self, layout: str, why: str) -> None:
        super().__init__("layout_failed", f"{layout}: {why}")


@dataclass
class Running:
    url: str
    model: str
    """As its API calls it."""
    accounts: list[Account] = field(default_factory=list)
    """What became of each request, by its router; here once the layout was ended, and never of a
    server that somebody else runs."""

    def metrics(self) -> dict[str, float]:
        """Samples of its `/metrics`, name with labels to value; empty where there is none."""
        try:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as reply:
                lines = reply.read().decode().splitlines()
        except (OSError, http.client.HTTPException):
            return {}
        return dict(_samples(lines))


Start = Callable[[Layout], AbstractContextManager[Running]]
"""What comparisons begin a run with; ended when the context is left."""


def starter(common: Sequence[str]) -> Start:
    """`common`: what `baton up` gets for every layout, such as the model and its dtype."""

    @contextmanager
    def start(layout: Layout) -> Iterator[Running]:
        if layout.url is not None:
            yield Running(layout.url, model_of(layout))
            return
        if layout.command:
            with _begun(layout, layout.command) as url:
                yield Running(url, model_of(layout, url))
            return
        with tempfile.TemporaryDirectory(prefix="baton-compare-") as folder:
            journal = Path(folder) / "journal.jsonl"
            command = [*_UP, *common, *layout.options, "--journal", str(journal)]
            with _begun(layout, command) as url:
                running = Running(url, model_of(layout, url))
                yield running
            running.accounts += _accounts(journal)

    return start


def model_of(layout: Layout, url: str | None = None) -> str:
    """The first of `/v1/models`. Raises LayoutFailed."""
    try:
        with urllib.request.urlopen(f"{url or layout.url}/v1/models", timeout=10) as reply:
            return str(json.load(reply)["data"][0]["id"])
    except (OSError, http.client.HTTPException, LookupError, ValueError) as error:
        raise LayoutFailed(layout.name, f"no answer to /v1/models: {error}") from error


@contextmanager
def _begun(layout: Layout, command: Sequence[str]) -> Iterator[str]:
    """The URL of a server that is ready. Raises LayoutFailed with what it said last."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "COLUMNS": "200"},
    )
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
        yield url
    finally:
        _end(process)


def _accounts(journal: Path) -> list[Account]:
    """A torn line is left out."""
    found = []
    for line in journal.read_bytes().splitlines() if journal.exists() else ():
        try:
            found.append(msgspec.json.decode(line, type=Account))
        except msgspec.MsgspecError:
            continue
    return found


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


def _end(process: subprocess.Popen[str]) -> None:
    """As the operator does it; by force when it takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _samples(lines: Sequence[str]) -> Iterator[tuple[str, float]]:
    for line in lines:
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            try:
                yield name, float(value)
            except ValueError:
                continue


_URL = re.compile(r"http://[\d.]+:\d+")

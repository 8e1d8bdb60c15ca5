"""A real cluster for tests: `baton up` as a child process, spoken to over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

START_SECONDS = 90.0
DEADLINE = 60.0
"""Seconds after which what a test waits for will not come any more: a machine that others use too
takes many times as long as a quiet one, and stands still in between."""

ATTEMPTS = 5
"""How often a test begins anew that came too late to what it wanted to disturb."""


PATIENT = str(Path(__file__).parent / "patient")


def environment(*, patient: bool) -> dict[str, str]:
    """Of a test's processes. `patient`: no silence, however long, is taken for a death."""
    ours = {**os.environ, "COLUMNS": "200", "BATON_JOURNAL": "off"}
    ours.pop("PYTHONPATH", None)
    return ours | {"PYTHONPATH": PATIENT} if patient else ours


def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """The condition's first true value. Fails the test, naming `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


@contextmanager
def held(pids: Iterable[int]) -> Iterator[None]:
    """These processes stand still inside, whatever happens to this one meanwhile: what was seen of
    them stays so. (Not for longer than their peers bear: see `environment`.)"""
    pids = list(pids)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_for(
            lambda: {psutil.Process(pid).status() for pid in pids} == {psutil.STATUS_STOPPED},
            "all stand still",
        )
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):  # killed inside
                os.kill(pid, signal.SIGCONT)


class Cluster:
    """Started on entry; on exit ended by SIGTERM, after a check that nothing is held and that no
    process is left."""

    def __init__(
        self, *arguments: str | Path, model: str | Path | None = None, patient: bool = True
    ) -> None:
        """`patient`: as in `environment`; not where silence is what is tested."""
        command = [sys.executable, "-P", "-m", "baton.deploy.cli", "up"]
        if model is not None:
            command.append(str(model))
        # What a test wants of a prefill worker shall not be done by another one that is cheaper.
        self.command = [*command, "--port", "0", "--strict-roles", *map(str, arguments)]
        self.output: list[str] = []
        self.url = ""
        self._environment = environment(patient=patient)
        self._process: subprocess.Popen[str] | None = None

    # -- life --------------------------------------------------------------------------------

    def launch(self) -> Cluster:
        """Start without waiting."""
        self._process = subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=self._environment,
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def start(self) -> Cluster:
        return self.launch().wait_started()

    def wait_started(self) -> Cluster:
        """Ready, or all is ended and the output printed."""
        try:
            wait_for(self._announced, "the URL line of `baton up`", START_SECONDS)
            self.wait_ready()
        except BaseException:
            self.kill()
            print("".join(self.output))
            raise
        return self

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self.assert_clean()
        finally:
            tree = self.processes()
            code = self.stop()
            if kind is not None:
                print("".join(self.output[-200:]))
        if kind is None:
            assert code == 0, f"baton up ended with {code}:\n{''.join(self.output[-50:])}"
            _, left = psutil.wait_procs(tree, timeout=DEADLINE)
            assert not left, f"left running: {left}"

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        process = self.launcher
        if process.poll() is None:
            process.send_signal(how)
        try:
            return process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"baton up did not end within {DEADLINE:g} s") from None

    def kill(self) -> None:
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def wait_ready(self, seconds: float = DEADLINE) -> None:
        wait_for(lambda: self.status("/ready") == 200, "/ready answers 200", seconds)

    @property
    def launcher(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def processes(self) -> list[psutil.Process]:
        """The launcher and all below it."""
        try:
            root = psutil.Process(self.launcher.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def loader(self) -> psutil.Process:
        """What the workers are forked from."""
        (loader,) = (p for p in self.processes() if p.cmdline()[:1] == ["baton loader"])
        return loader

    # -- HTTP --------------------------------------------------------------------------------

    def status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(self.url + path, timeout=DEADLINE) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=DEADLINE) as reply:
            return json.load(reply)

    def post(self, path: str, body: dict[str, Any], timeout: float = 120.0) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return json.load(reply)

    def workers(self) -> list[dict[str, Any]]:
        """GET /admin/workers."""
        reply = self.get("/admin/workers")
        workers: list[dict[str, Any]] = reply["workers"]
        return workers

    def metrics(self) -> dict[str, float]:
        """Sample text (name and labels) to value."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=DEADLINE) as reply:
            lines = reply.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def metric_sum(self, name: str) -> float:
        """Sum over the labels of one sample name."""
        return sum(v for k, v in self.metrics().items() if re.split(r"[{ ]", k)[0] == name)

    # -- promises ----------------------------------------------------------------------------

    def is_clean(self) -> bool:
        """No worker runs, waits for, holds or quarantines anything."""
        return all(
            worker["load"] is not None
            and worker["load"]["running"] == 0
            and worker["load"]["waiting"] == 0
            and worker["load"]["handoffs"] == 0
            and worker["blocks"]["active"] == 0
            and worker["blocks"]["held"] == 0
            and worker["blocks"]["quarantined"] == 0
            for worker in self.workers()
        )

    def assert_clean(self) -> None:
        try:
            wait_for(self.is_clean, "all blocks free or cached on every worker", DEADLINE)
        except AssertionError:
            print(json.dumps(self.workers(), indent=1))
            raise

    # -- inside ------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self.launcher.stdout is not None
        for line in self.launcher.stdout:
            self.output.append(line)

    def _announced(self) -> bool:
        assert self.launcher.poll() is None, "baton up ended:\n" + "".join(self.output)
        found = re.search(r"http://[\d.]+:\d+", "".join(self.output))
        if found:
            self.url = found[0]
        return found is not None


def lines_of(arguments: Sequence[str], seconds: float = DEADLINE) -> tuple[int, str]:
    """Run a `baton` command to its end: exit code and all output."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "baton.deploy.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment(patient=False),
    )
    return done.returncode, done.stdout + done.stderr

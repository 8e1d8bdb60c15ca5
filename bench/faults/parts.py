"""The processes of one cluster, started one by one as on several machines, so that each can be
killed, stopped, continued and started again under the same name and address.

    router    `baton router` at a fixed HTTP and control port
    worker    `baton worker --join`, through a `Link` of its own to the router; other workers reach
              its hand-off channel through another one, whose port stays when it is started again

Everything ends with the `Parts`, whatever state a process is in.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from baton.bench.faults.entry import Tampering
from baton.bench.faults.proxy import Links, free_port

ROUTER = "router"
START_SECONDS = 120.0
CLEAN_SECONDS = 20.0
BLOCK = 16
"""Tokens of a KV block, unless told otherwise."""


class PartFailed(RuntimeError):
    """A process ended that should not have, or something did not happen in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A cluster. `options` go to every process; the others to workers of one role."""

    model: str | None
    prefill: int = 2
    decode: int = 2
    mixed: int = 0
    dtype: str = "float32"
    options: tuple[str, ...] = ()
    router_options: tuple[str, ...] = (
        "--max-queue", "2048", "--lane", "interactive:patience=10m",
    )
    """Nothing is refused: here it is seen what becomes of requests, not whether they are fast."""
    worker_options: tuple[str, ...] = ("--max-running", "256", "--threads", "1")
    prefill_options: tuple[str, ...] = ()
    decode_options: tuple[str, ...] = ()
    tampering: Tampering = field(default_factory=Tampering)
    """Of every process."""
    sender_tampering: Tampering | None = None
    """Of prefill workers, instead."""

    @property
    def names(self) -> list[str]:
        """Of the workers: role and number."""
        counts = {"prefill": self.prefill, "decode": self.decode, "mixed": self.mixed}
        return [f"{role}-{i}" for role, count in counts.items() for i in range(count)]


class Part:
    """One process, over all its lives."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        tampering: Tampering,
        log: Path,
        *,
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        """`prefix`: a command that becomes this one."""
        self.name = name
        self._prefix = prefix
        self._environment = environment or {}
        self.log = log
        self._arguments = arguments
        self._tampering = tampering
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises PartFailed when it runs already."""
        if self.running:
            raise PartFailed(f"{self.name} runs already")
        entry = [sys.executable, "-P", "-m", "baton.bench.faults.entry"]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._prefix, *entry, self._tampering.to_json(), *self._arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "10000",
                     "COLUMNS": "200", **self._environment},
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, signum: int) -> None:
        if self.running:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Gone for good."""
        self.kill()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class Parts:
    """A running cluster. A context manager: on exit everything is ended."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = Path(tempfile.mkdtemp(prefix="baton-faults-"))
        self.links = Links()
        self.http_port, self.control_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.switch = self.folder / "corrupt"
        """While this file is there, processes that are told to corrupt do."""
        model = [] if plan.model is None else [plan.model]
        common = [*model, "--dtype", plan.dtype, *plan.options]
        self.router = Part(
            ROUTER,
            # Faults are aimed at hand-offs, so these have to happen.
            ["router", *common, "--strict-roles", "--port", str(self.http_port),
             "--control", self.control(), *plan.router_options],
            replace(plan.tampering, split=True), self.folder / "router.log",
        )
        self.workers: dict[str, Part] = {}
        for number, name in enumerate(plan.names):
            self.workers[name] = self._worker(name, common, number)

    def control(self) -> str:
        """Where the router takes workers."""
        return f"127.0.0.1:{self.control_port}"

    def _worker(self, name: str, common: list[str], number: int) -> Part:
        plan, role = self.plan, name.partition("-")[0]
        file = self.folder / f"{name}.address"
        to_router = self.links.add(
            f"{name}>router", lambda: ("127.0.0.1", self.control_port)
        )
        to_worker = self.links.add(f">{name}", lambda: _address_in(file))
        tampering = plan.tampering
        if role == "prefill" and plan.sender_tampering is not None:
            tampering = plan.sender_tampering
        tampering = replace(
            tampering, seed=tampering.seed + number + 1, address_file=str(file),
            switch=str(self.switch), advertise=f"tcp://127.0.0.1:{to_worker}",
        )
        own = {"prefill": plan.prefill_options, "decode": plan.decode_options}.get(role, ())
        arguments = ["worker", *common, "--role", role, "--id", name,
                     "--join", f"127.0.0.1:{to_router}", *plan.worker_options, *own]
        return Part(name, arguments, tampering, self.folder / f"{name}.log")

    def __enter__(self) -> Self:
        try:
            for part in (self.router, *self.workers.values()):
                part.start()
            self.wait(self._all_ready, "all workers ready", START_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            print(self.tails())
        self.close()

    def close(self) -> None:
        """End all processes, without ceremony, and links."""
        for part in (*self.workers.values(), self.router):
            part.close()
        self.links.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tails(self) -> str:
        parts = [self.router, *self.workers.values()]
        return "\n".join(f"--- {part.name}\n{part.tail()}" for part in parts)

    # -- what the router says ----------------------------------------------------------------

    def get(self, path: str, timeout: float = 10.0) -> Any:
        """Raises OSError when the router does not answer."""
        return json.loads(self.fetch(path, timeout))

    def fetch(self, path: str, timeout: float = 10.0) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def views(self) -> dict[str, dict[str, Any]]:
        """GET /admin/workers by id; empty while the router is not there."""
        try:
            workers = self.get("/admin/workers")["workers"]
        except OSError:
            return {}
        return {worker["id"]: worker for worker in workers}

    def samples(self) -> dict[str, float]:
        """GET /metrics: sample name with labels to value."""
        lines = self.fetch("/metrics").decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def total(self, name: str, *labels: str) -> float:
        """Sum of one sample over all labels that contain each of `labels`."""
        return sum(
            value for sample, value in self.samples().items()
            if sample.partition("{")[0] == name and all(label in sample for label in labels)
        )

    # -- conditions --------------------------------------------------------------------------

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
        """The condition's first true value. Raises PartFailed, naming `what`."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() >= deadline:
                raise PartFailed(f"not within {seconds:g} s: {what}\n{self.tails()}")
            time.sleep(0.02)
        return value

    def _all_ready(self) -> bool:
        for part in (self.router, *self.workers.values()):
            if not part.running:
                raise PartFailed(f"{part.name} ended:\n{part.tail()}")
        views = self.views()
        return all(self.is_ready(name, views) for name in self.workers)

    def is_ready(self, name: str, views: dict[str, dict[str, Any]] | None = None) -> bool:
        """The router gives it requests, and it is the process that runs now."""
        view = (self.views() if views is None else views).get(name)
        return (view is not None and view["state"] == "ready" and view["load"] is not None
                and view["pid"] == self.workers[name].pid)

    def unclean(self) -> dict[str, Any]:
        """What living workers still hold, by worker; empty when they are at rest."""
        left: dict[str, Any] = {}
        for name, view in self.views().items():
            if view["state"] == "lost" or name not in self.workers:
                continue
            load, blocks = view["load"] or {}, view["blocks"] or {}
            holds = {k: load.get(k) for k in ("running", "waiting", "handoffs") if load.get(k)}
            holds |= {k: blocks[k] for k in ("active", "held", "quarantined") if blocks.get(k)}
            if view["load"] is None or holds:
                left[name] = holds or "no heartbeat"
        return left

    def wait_clean(self, seconds: float = CLEAN_SECONDS) -> dict[str, Any]:
        """What is still held after at most `seconds`: empty is as it should be."""
        deadline = time.monotonic() + seconds
        while True:
            left = self.unclean()
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(0.05)


def _address_in(file: Path) -> tuple[str, int]:
    """Raises OSError while the worker has not told where it listens."""
    host, _, port = file.read_text().removeprefix("tcp://").rpartition(":")
    if not port:
        raise ConnectionRefusedError("it is just about to tell")
    return host, int(port)

"""Keeps a set of child processes: starts them together, restarts what dies, ends them all.

    STARTING --ready--> SERVING --exit--> BACKING_OFF --delay--> STARTING ...
       |                   |
       +--exit, first time-+--- exit without `restart` ---> GONE

A child that is forked from a loader (`processes`) starts when the loader is ready.

An exit while a child starts for the first time fails the whole start. Children are leaders of
their own process groups: a Ctrl-C at the terminal reaches only the launcher, and a kill reaches
what they may have started themselves. The supervisor owns processes and pipes, and after `stop`
has returned there are none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from baton.deploy.processes import Forker, Process, execute, kill_group
from baton.deploy.status import StatusReport, parse_report
from baton.deploy.strangers import INTERVAL, Strangers

log = logging.getLogger(__name__)

FIRST_DELAY = 0.2
LONGEST_DELAY = 10.0
HEALTHY_AFTER = 60.0
"""Seconds. A child that served this long begins again with the first delay."""

_LAST_LINES = 20
_MAX_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start one child. `argv` is complete but for `--status-fd N`, and `--fork-fd N` of a
    loader; a child that is forked needs none."""

    name: str
    argv: tuple[str, ...]
    settings: bytes
    """The line for its standard input, without the newline."""
    env: dict[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    essential: bool = False
    """Without it, and without a restart, the others are no use."""
    is_loader: bool = False
    fork_of: str | None = None
    """The name of the loader that it is forked from."""
    after_stage: tuple[str, str] | None = None
    """(child, stage): when this is first started, it waits until that child has come so far. Two
    that import much at once on few cores take longer than one after the other."""


class ChildState(Enum):
    STARTING = "starting"
    SERVING = "serving"
    BACKING_OFF = "backing off"
    GONE = "gone"


class Observer(Protocol):
    """Who shows people what goes on. Called on the event loop."""

    def on_report(self, name: str, report: StatusReport) -> None: ...

    def on_line(self, name: str, line: str) -> None:
        """A line the child wrote to its output."""

    def on_exit(self, name: str, cause: str, restart_in: float | None) -> None:
        """A child that had served died; None: it stays away."""


class StartFailed(Exception):
    """A child ended before it was ready. The message is the cause in one line."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name = name
        self.cause = cause


class Child:
    """One slot: the same name over all lives of its process."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.state = ChildState.STARTING
        self.ready: StatusReport | None = None
        """The last report of readiness."""
        self.process: Process | None = None
        self.forker: Forker | None = None
        """Of a loader."""
        self.fatal: str | None = None
        self.stages: set[str] = set()
        """All that it reported, over all lives."""
        self.last_cause = ""
        """Why its last life ended."""
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.delay = FIRST_DELAY
        self.served_since = 0.0

    @property
    def pid(self) -> int | None:
        return None if self.process is None else self.process.pid

    def signal(self, signum: int) -> None:
        """To the child's whole group; a child that is gone already is fine."""
        if self.process is not None:
            kill_group(self.process, signum)

    def cause(self, returncode: int) -> str:
        """Why it ended, in one line."""
        if self.fatal is not None:
            return self.fatal
        if returncode < 0:
            try:
                how = f"killed by {signal.Signals(-returncode).name}"
            except ValueError:
                how = f"killed by signal {-returncode}"
        else:
            how = f"exited with status {returncode}"
        said = next((line for line in reversed(self.last_lines) if line.strip()), None)
        return f"{how}; its last words: {said.strip()}" if said else how


class Supervisor:
    def __init__(
        self, specs: Sequence[ChildSpec], observer: Observer, *, restart: bool = True
    ) -> None:
        self.children = {spec.name: Child(spec) for spec in specs}
        self._observer = observer
        self._restart = restart
        self._tasks: list[asyncio.Task[None]] = []
        self._reaping: asyncio.Task[None] | None = None
        self._stopping = False
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Start all at once; returns when all are ready.

        Raises StartFailed when one ended instead; the others then still run, for `stop`.
        """
        self._tasks = [
            asyncio.create_task(self._keep(child), name=child.spec.name)
            for child in self.children.values()
        ]
        self._reaping = asyncio.create_task(self._reap())
        while True:
            self._raise_errors()
            children = self.children.values()
            for child in children:
                if child.state is ChildState.GONE:
                    raise StartFailed(child.spec.name, child.last_cause)
            if all(child.state is ChildState.SERVING for child in children):
                return
            self._changed.clear()
            await self._changed.wait()

    async def wait_essential_gone(self) -> None:
        """Returns once a child is gone for good without which the others are no use."""
        while True:
            self._raise_errors()
            if any(
                child.spec.essential and child.state is ChildState.GONE
                for child in self.children.values()
            ):
                return
            self._changed.clear()
            await self._changed.wait()

    async def stop(self, grace: float = 5.0) -> None:
        """End every child: ask, wait for `grace` seconds, then kill. Nothing runs afterwards."""
        self._stopping = True
        alive = [child for child in self.children.values() if child.process is not None]
        for child in alive:
            child.signal(signal.SIGTERM)
        for task in self._tasks:
            if self.children[task.get_name()].process is None:
                task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            if late:
                names = ", ".join(sorted(task.get_name() for task in late))
                log.warning("%s did not end within %.0f s: killed", names, grace)
                self.kill()
                await asyncio.wait(late)
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._reaping is not None:
            self._reaping.cancel()

    def kill(self) -> None:
        """End every child now. `stop` still has to be awaited to reap them."""
        self._stopping = True
        for child in self.children.values():
            child.signal(signal.SIGKILL)

    async def _reap(self) -> None:
        strangers = Strangers()
        while True:
            await asyncio.sleep(INTERVAL)
            children = self.children.values()
            strangers.reap({child.pid for child in children if child.pid is not None})

    def _raise_errors(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    # -- one child ---------------------------------------------------------------------------

    async def _keep(self, child: Child) -> None:
        """All lives of one child."""
        first = True
        try:
            while True:
                returncode = await self._live(child)
                if self._stopping:
                    return
                child.last_cause = cause = child.cause(returncode)
                if first and child.state is ChildState.STARTING:
                    raise StartFailed(child.spec.name, cause)
                first = False
                if not self._restart:
                    self._observer.on_exit(child.spec.name, cause, None)
                    return
                served = child.state is ChildState.SERVING
                if served and time.monotonic() - child.served_since >= HEALTHY_AFTER:
                    child.delay = FIRST_DELAY
                self._observer.on_exit(child.spec.name, cause, child.delay)
                child.state = ChildState.BACKING_OFF
                self._changed.set()
                await asyncio.sleep(child.delay)
                child.delay = min(2 * child.delay, LONGEST_DELAY)
        finally:
            child.state = ChildState.GONE
            # The loop runs this task's end before whoever waits looks at it.
            asyncio.get_running_loop().call_soon(self._changed.set)

    async def _live(self, child: Child) -> int:
        """One life; returns its exit status (negative: the signal)."""
        child.state, child.fatal = ChildState.STARTING, None
        child.last_lines.clear()
        pipes = _Pipes(child.spec.settings)
        try:
            child.process = process = await self._spawn(child, pipes)
        except BaseException:
            pipes.close()
            raise
        finally:
            pipes.close_theirs()
        try:
            reading = asyncio.gather(
                self._read_status(child, pipes.status), self._read_output(child, pipes.output)
            )
            returncode = await process.wait()
            # A descendant may hold the pipes open; what it writes is not waited for.
            await asyncio.wait([reading], timeout=1.0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            return returncode
        finally:
            child.signal(signal.SIGKILL)  # also what it left behind in its group
            await process.wait()
            child.process = None
            pipes.close_lifeline()
            if child.forker is not None:
                child.forker.close()
                child.forker = None

    async def _spawn(self, child: Child, pipes: _Pipes) -> Process:
        spec = child.spec
        if spec.fork_of is not None:
            loader = self.children[spec.fork_of]
            while True:
                while loader.state is not ChildState.SERVING:
                    self._changed.clear()
                    await self._changed.wait()
                forker = loader.forker
                assert forker is not None
                try:
                    return await forker.fork(*pipes.theirs)
                except OSError as error:
                    # It has died, and nobody has noticed yet, or it stands still. What it may
                    # answer later is not what the next one asks for, so it ends; another one forks.
                    log.warning("%s could not fork %s: %r", loader.spec.name, spec.name, error)
                    loader.signal(signal.SIGKILL)
                while loader.forker is forker:
                    self._changed.clear()
                    await self._changed.wait()
        if spec.after_stage is not None:
            other, stage = spec.after_stage
            while stage not in self.children[other].stages:
                self._changed.clear()
                await self._changed.wait()
        stdin, stdout, status = pipes.theirs
        argv = [*spec.argv, "--status-fd", str(status)]
        pass_fds = [status, *spec.pass_fds]
        if spec.is_loader:
            child.forker = Forker()
            request_fd = child.forker.theirs.fileno()
            argv += ["--fork-fd", str(request_fd)]
            pass_fds.append(request_fd)
        return await execute(argv, spec.env, stdin, stdout, pass_fds)

    async def _read_status(self, child: Child, fd: int) -> None:
        reader, transport = await _pipe_reader(fd)
        try:
            while line := await reader.readline():
                try:
                    report = parse_report(line)
                except ValueError as error:
                    log.warning("%s: unreadable status: %s", child.spec.name, error)
                    continue
                if report.stage is not None and report.stage not in child.stages:
                    child.stages.add(report.stage)
                    self._changed.set()
                if report.fatal is not None:
                    child.fatal = report.fatal
                elif report.ready:
                    child.ready = report
                    child.state = ChildState.SERVING
                    child.served_since = time.monotonic()
                    self._changed.set()
                self._observer.on_report(child.spec.name, report)
        finally:
            transport.close()

    async def _read_output(self, child: Child, fd: int) -> None:
        reader, transport = await _pipe_reader(fd)
        rest = b""
        try:
            while piece := await reader.read(_MAX_LINE):
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _MAX_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._take_line(child, line)
            if rest:
                self._take_line(child, rest)
        finally:
            transport.close()

    def _take_line(self, child: Child, line: bytes) -> None:
        text = line.decode(errors="replace")
        child.last_lines.append(text)
        self._observer.on_line(child.spec.name, text)


class _Pipes:
    """The three pipes of one life: its standard input, which carries the settings and stays open
    as its lifeline; its output; its status."""

    def __init__(self, settings: bytes) -> None:
        stdin, self.lifeline = os.pipe()
        self.output, stdout = os.pipe()
        self.status, status = os.pipe()
        self.theirs = (stdin, stdout, status)
        os.write(self.lifeline, settings + b"\n")  # far below what a pipe holds

    def close_theirs(self) -> None:
        for fd in self.theirs:
            os.close(fd)

    def close_lifeline(self) -> None:
        os.close(self.lifeline)

    def close(self) -> None:
        """Ours, when nobody reads them."""
        for fd in (self.lifeline, self.output, self.status):
            os.close(fd)


async def _pipe_reader(fd: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    return reader, transport

"""What `baton up` shows: a live display on a terminal, plain lines elsewhere, JSON when asked.

Progress and log lines go to standard error; what the user came for (URL, curl, where the start-up
time went) to standard output.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from baton.deploy.status import StatusReport
from baton.deploy.supervisor import Observer

log = logging.getLogger("baton.up")


@dataclass(frozen=True, slots=True)
class Ready:
    """The cluster serves."""

    url: str
    model: str
    api_key: str | None
    seconds: float
    """From the start of the launcher."""
    timings: Mapping[str, Mapping[str, float]]
    """Seconds per part of the start, by process. Processes start side by side."""

    def curl(self, *, show_key: bool) -> str:
        """A command that works as it stands (with `show_key`, or $BATON_API_KEY set)."""
        body = json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": "Why is the sky blue?"}],
                "max_tokens": 64,
                "temperature": 0,
            }
        )
        words = ["curl", f"{self.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
        command = " ".join(shlex.quote(word) for word in words)
        if self.api_key is not None:
            key = shlex.quote(self.api_key) if show_key else '"$BATON_API_KEY"'
            command += f" -H 'Authorization: Bearer '{key}"
        return f"{command} -d {shlex.quote(body)}"


class Display(Observer, Protocol):
    def begin(self, names: list[str]) -> None: ...

    def serving(self, ready: Ready) -> None: ...

    def stopping(self, why: str) -> None: ...

    def failed(self, cause: str) -> None:
        """It does not come to serving."""

    def close(self) -> None:
        """Give the terminal back. Idempotent."""


def choose_display(*, json_logs: bool) -> Display:
    if json_logs:
        return JsonDisplay()
    console = Console(stderr=True, highlight=False)
    return LiveDisplay(console) if console.is_terminal else PlainDisplay()


def describe_exit(cause: str, restart_in: float | None) -> str:
    if restart_in is None:
        return f"DIED ({cause}); not restarted"
    return f"DIED ({cause}); restarting in {restart_in:.1f} s"


def say(text: str) -> None:
    """A line on standard error. When nobody reads it any more, serving goes on without."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


class PlainDisplay:
    """One line per event."""

    def __init__(self) -> None:
        self._stages: dict[str, str] = {}

    def begin(self, names: list[str]) -> None:
        self._say("launcher", f"starting {', '.join(names)}")

    def on_report(self, name: str, report: StatusReport) -> None:
        if report.stage is not None and self._stages.get(name) != report.stage:
            self._stages[name] = report.stage
            self._say(name, report.stage)
        elif report.ready:
            self._stages.pop(name, None)
            self._say(name, "ready")

    def on_line(self, name: str, line: str) -> None:
        self._say(name, line)

    def on_exit(self, name: str, cause: str, restart_in: float | None) -> None:
        self._say(name, describe_exit(cause, restart_in))

    def serving(self, ready: Ready) -> None:
        console = Console(highlight=False, soft_wrap=True)
        print_ready(console, ready, show_key=console.is_terminal)

    def stopping(self, why: str) -> None:
        self._say("launcher", why)

    def failed(self, cause: str) -> None:
        say(f"baton: {cause}")

    def close(self) -> None: ...

    def _say(self, name: str, text: str) -> None:
        say(f"{name:<10} | {text}")


class LiveDisplay:
    """One line per child that changes in place while it starts; log lines scroll above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def begin(self, names: list[str]) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.fields[child]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        for name in names:
            self._tasks[name] = self._progress.add_task("starting", total=None, child=name)
        self._progress.start()

    def on_report(self, name: str, report: StatusReport) -> None:
        if self._progress is not None and name in self._tasks:
            task = self._tasks[name]
            if report.ready:
                self._progress.update(task, description="ready", total=1, completed=1)
            elif report.stage is not None:
                self._progress.update(
                    task,
                    description=escape(report.stage),
                    total=None if report.fraction is None else 1.0,
                    # Short of 1: only a child that is ready is finished.
                    completed=min(report.fraction or 0.0, 0.999),
                )
        elif report.ready:
            self._say(name, "[green]ready again[/]")

    def on_line(self, name: str, line: str) -> None:
        self._say(name, escape(line))

    def on_exit(self, name: str, cause: str, restart_in: float | None) -> None:
        self._say(name, f"[bold red]{escape(describe_exit(cause, restart_in))}[/]")

    def serving(self, ready: Ready) -> None:
        self.close()
        print_ready(Console(highlight=False, soft_wrap=True), ready, show_key=True)

    def stopping(self, why: str) -> None:
        self.close()
        self._console.print(f"[dim]{escape(why)}[/]")

    def failed(self, cause: str) -> None:
        self.close()
        say(f"baton: {cause}")

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._console.show_cursor(True)

    def _say(self, name: str, markup: str) -> None:
        console = self._console if self._progress is None else self._progress.console
        console.print(f"[cyan]{escape(name):<10}[/] {markup}", soft_wrap=True)


class JsonDisplay:
    """Events of the launcher as log records; lines of children, JSON already, as they are."""

    def begin(self, names: list[str]) -> None:
        log.info("starting", extra={"children": names})

    def on_report(self, name: str, report: StatusReport) -> None:
        if report.ready:
            log.info("child ready", extra={"child": name, "timings": report.timings})
        elif report.stage is not None and report.fraction is None:
            log.info("child stage", extra={"child": name, "stage": report.stage})

    def on_line(self, name: str, line: str) -> None:
        if line.startswith("{"):
            say(line)
        else:
            log.info("%s", line, extra={"child": name})

    def on_exit(self, name: str, cause: str, restart_in: float | None) -> None:
        log.error("child died", extra={"child": name, "cause": cause, "restart_in": restart_in})

    def serving(self, ready: Ready) -> None:
        extra = {"url": ready.url, "model": ready.model, "seconds": round(ready.seconds, 3)}
        log.info("serving", extra=extra)

    def stopping(self, why: str) -> None:
        log.info("%s", why)

    def failed(self, cause: str) -> None:
        log.error("%s", cause)

    def close(self) -> None: ...


def print_ready(console: Console, ready: Ready, *, show_key: bool) -> None:
    """URL, curl, and where the time went."""
    console.print(start_table(ready))
    console.print(
        f"[bold green]Serving {escape(ready.model)}[/] at [bold]{escape(ready.url)}[/] "
        f"after {ready.seconds:.1f} s. Ctrl-C ends it. Try:\n"
    )
    console.print(escape(ready.curl(show_key=show_key)) + "\n")


def start_table(ready: Ready) -> Table:
    """One row per process: its total, and its parts in the order they ran."""
    table = Table(title="Where start-up time went (processes start side by side)", box=None,
                  title_justify="left", pad_edge=False)
    table.add_column("process", style="cyan", no_wrap=True)
    table.add_column("seconds", justify="right")
    table.add_column("of which", overflow="fold")
    for name, parts in ready.timings.items():
        shares = ", ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items())
        table.add_row(name, f"{sum(parts.values()):.2f}", escape(shares))
    return table

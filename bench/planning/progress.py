"""A bar on stderr while simulations run; nothing where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Tell = Callable[[int, int], None]
"""Hears how many more there are to do, and how many are done."""


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Tell]:
    """Gone when it is done."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda more, done: None
        return
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=0)
        total = 0

        def tell(more: int, done: int) -> None:
            nonlocal total
            total += more
            bar.update(task, total=total, advance=done)

        yield tell

"""CPU affinity of threads that are started, or work that is done, within a block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned(cpus: tuple[int, ...] | None) -> Iterator[None]:
    """This thread, and those it starts meanwhile, run on `cpus` only; None changes nothing.
    Afterwards this thread runs where it did before, the others stay."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

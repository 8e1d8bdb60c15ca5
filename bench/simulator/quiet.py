"""Simulated routers and workers say nothing to those who read the log of what is real."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Of Baton's own loggers only errors come through meanwhile: these are mistakes of its code,
    not of a cluster that does not exist."""
    ours = logging.getLogger("baton")
    before = ours.level
    ours.setLevel(max(logging.ERROR, ours.getEffectiveLevel()))
    try:
        yield
    finally:
        ours.setLevel(before)

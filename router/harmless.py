"""What only learns from requests, or remembers them, must not be able to lose one."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec

log = logging.getLogger(__name__)
P = ParamSpec("P")


def harmless(method: Callable[P, None]) -> Callable[P, None]:
    """A mistake in it is logged, and goes no further."""

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception:
            log.exception("%s failed; the request goes on", method.__qualname__)

    return guarded

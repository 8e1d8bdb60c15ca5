"""Loads libucs without holding the interpreter's lock.

Where the processor's name says nothing of its clock (AMD), libucs measures the clock while it is
loaded: 0.4 s of `sched_yield`. Python's own loader keeps the interpreter's lock meanwhile; through
a foreign call it is let go, and a thread that has work on the same core then loses nothing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path


def load() -> None:
    """Nothing happens without the wheel `libucx`: the system's library is then loaded by need."""
    spec = importlib.util.find_spec("libucx")
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / "lib" / "libucs.so"
        if path.is_file():
            # Failure shows when the binding is imported, with a better message.
            ctypes.CDLL(None).dlopen(str(path).encode(), os.RTLD_NOW | os.RTLD_LOCAL)

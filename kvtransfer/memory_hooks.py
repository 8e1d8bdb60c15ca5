"""UCX's hooks for memory, put into this process while nobody else allocates any.

When libucs is loaded it replaces the beginning of `mmap`, `madvise`, `brk` and others in memory,
and tries its hooks: it moves the end of the heap up by a page and back to where it was. A thread
that is within one of these then, or is given heap in between, crashes; once in some thousand
starts. So whoever wants to load UCX on a thread has the hooks installed first, from the only thread
that allocates. (They tell UCX of memory that goes, which it may have registered with a device.)
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

_OPTIONS = "UCX_MEM_"
"""What the hooks do is read from the environment, but by libucs."""


def install() -> None:
    """Idempotent. Nothing happens without the wheel `libucx`."""
    folder = library_folder()
    if folder is None:
        return
    if any(name.startswith(_OPTIONS) for name in os.environ):
        load(folder / "libucs.so")
        return
    try:
        ctypes.CDLL(str(folder / "libucm.so.0")).ucm_library_init()
    except (OSError, AttributeError):
        load(folder / "libucs.so")  # another version: all of it now takes 0.4 s, and is safe


def library_folder() -> Path | None:
    """Of the wheel `libucx`. None: the system's own library is used."""
    spec = importlib.util.find_spec("libucx")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "lib"
        if (folder / "libucs.so").is_file():
            return folder
    return None


def load(path: Path) -> None:
    """Through a foreign call, which lets go of the interpreter's lock. Failure shows when the
    binding is imported, with a better message."""
    ctypes.CDLL(None).dlopen(str(path).encode(), os.RTLD_NOW | os.RTLD_LOCAL)

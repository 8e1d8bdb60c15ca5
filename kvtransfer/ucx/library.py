"""Loads libucs without holding the interpreter's lock.

Where the processor's name says nothing of its clock (AMD), libucs measures the clock while it is
loaded: 0.4 s of `sched_yield`. Python's own loader keeps the interpreter's lock meanwhile; through
a foreign call it is let go, and a thread that has work on the same core then loses nothing.
"""

from __future__ import annotations

from baton.kvtransfer import memory_hooks


def load() -> None:
    """Nothing happens without the wheel `libucx`: the system's library is then loaded by need."""
    folder = memory_hooks.library_folder()
    if folder is not None:
        memory_hooks.load(folder / "libucs.so")

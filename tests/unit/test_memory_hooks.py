"""UCX's hooks are in place before a thread loads the rest of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LOOK = """
import ctypes, sys, threading
from baton.kvtransfer import memory_hooks, registry

libc = ctypes.CDLL(None)
def code():
    return ctypes.string_at(ctypes.cast(libc.brk, ctypes.c_void_p).value, 16)

plain = code()
seen = []
start = threading.Thread.start
threading.Thread.start = lambda self: (seen.append(code()), start(self))[1]
registry.load_in_background("ucx").join()
assert "baton.kvtransfer.ucx" in sys.modules, "it was not loaded"
print(seen[0] != plain, code() == seen[0])
memory_hooks.install()
print(code() == seen[0])
"""


@pytest.mark.parametrize("options", [{}, {"UCX_MEM_LOG_LEVEL": "warn"}])
def test_functions_are_replaced_before_there_is_another_thread(options: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-c", LOOK], env={**os.environ, **options}, check=True,
        capture_output=True, text=True,
    )
    assert ran.stdout.split() == ["True", "True", "True"]


def test_what_was_asked_for_in_the_environment_counts() -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-c", LOOK], env={**os.environ, "UCX_MEM_MMAP_HOOK_MODE": "none"},
        check=True, capture_output=True, text=True,
    )
    assert ran.stdout.split() == ["False", "True", "True"]

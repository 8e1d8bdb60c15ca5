"""Memory that a step frees is there for the next one, in whatever thread and process it runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES, TIMES = 384, 100
STEPS = f"""
import ctypes, os, resource, sys, threading
from baton.deploy.heap import GrownHeap, keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def step():
    activations = [libc.malloc({PAGES} * 4096) for _ in range(2)]
    for address in activations:
        ctypes.memset(address, 1, {PAGES} * 4096)
    for address in activations:
        libc.free(address)

def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({TIMES}):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)

if sys.argv[1] == "loader":
    heap = GrownHeap(1 << 20)
    heap.give_back()
else:
    keep_freed_memory()
if os.fork():
    os.wait()
else:
    faults()
    thread = threading.Thread(target=faults)
    thread.start()
    thread.join()
"""


@pytest.mark.parametrize("whose", ["loader", "worker"])
def test_steps_take_no_fresh_pages(whose: str) -> None:
    command = [sys.executable, "-P", "-c", STEPS, whose]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
    seen = [int(line) for line in said.split()]
    assert len(seen) == 2, "in the first thread and in another"
    assert max(seen) < PAGES * TIMES / 20

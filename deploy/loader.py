"""The process that workers on CPU are forked from: torch imported, UCX loaded, weights in place.

Several workers of one machine then hold one copy of the weights, start together in the time of
one, and a worker that died is back in a fraction of a second. What makes this safe:

* One thread. Before it forks, this process never runs an OpenMP region or an event loop, so there
  is no lock or thread pool that a fork could inherit half of.
* Weights are only read, so no page of them is ever copied.
* A fork gives up every descriptor of the loader's and becomes a child of the launcher.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
from typing import NoReturn

from baton.deploy import lifeline
from baton.deploy.heap import GrownHeap
from baton.deploy.settings import WorkerSettings
from baton.deploy.status import LOADING, StatusWriter
from baton.engine.model.source import resolve_model, stored_tensors
from baton.kvtransfer import memory_hooks

_REQUEST_BYTES = 64
_PACED_BYTES = 1 << 20


def run_loader(
    settings: WorkerSettings, status: StatusWriter, status_fd: int, requests: socket.socket
) -> int:
    """Load, then fork on request until the launcher's end of `requests` is closed. Raises
    ConfigError when the model cannot be loaded."""
    status.stage("reading the model's description")
    if settings.transport == "ucx":
        memory_hooks.install()  # before any thread is there
    heap = GrownHeap(_PACED_BYTES if settings.paced else _weight_bytes(settings))
    status.stage("importing torch")
    import torch

    import baton.deploy.worker.process  # noqa: F401  (the forks go on with it)
    from baton.deploy.child import run_forked_worker
    from baton.deploy.worker.build import load_model, warm_up
    from baton.kvtransfer.registry import load_in_background

    torch.set_num_threads(1)
    transport = load_in_background(settings.transport)
    loaded = None
    if settings.paced is not None:
        status.stage(LOADING, 1.0)  # for whoever waits until torch is imported
    else:
        loaded = load_model(settings, status)
        status.stage("warming up")
        loaded = warm_up(loaded, settings.model.block_size)  # compiled kernels are inherited too
    transport.join()
    gc.collect()
    heap.give_back()
    gc.freeze()  # or the collector would write to every object, and copy every page
    status.ready()
    while True:
        request, fds, _, _ = socket.recv_fds(requests, _REQUEST_BYTES, 3)
        if not request:
            return 0
        stdin, stdout, child_status = fds
        pid = _fork(requests, status_fd, stdin, stdout)
        if pid == 0:
            _exit_with(run_forked_worker(child_status, loaded))
        for fd in fds:
            os.close(fd)
        requests.send(str(pid).encode())


def _weight_bytes(settings: WorkerSettings) -> int:
    """About what loading takes at its peak: two bytes for each element, and the largest tensor
    once more in float32 and packed."""
    sizes = [tensor.elements for tensor in stored_tensors(resolve_model(settings.model.model))]
    return 2 * sum(sizes) + 6 * max(sizes)


def _fork(requests: socket.socket, status_fd: int, stdin: int, stdout: int) -> int:
    """0 in the fork; in the loader its pid, once it is the launcher's child."""
    read, write = os.pipe()
    between = os.fork()
    if between:
        os.close(write)
        pid = int(os.read(read, 32))
        os.close(read)
        os.waitpid(between, 0)
        return pid
    between = os.getpid()
    pid = os.fork()
    if pid:
        os.write(write, str(pid).encode())
        os._exit(0)
    while os.getppid() == between:
        time.sleep(0.0005)
    os.setpgid(0, 0)
    os.dup2(stdin, 0)
    for standard in (1, 2):
        os.dup2(stdout, standard)
    for fd in (read, write, stdin, stdout, status_fd):
        os.close(fd)
    requests.close()
    lifeline.die_with_parent()
    return 0


def _exit_with(code: int) -> NoReturn:
    """As a process of its own ends: with its buffers written, and nothing of the loader run."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

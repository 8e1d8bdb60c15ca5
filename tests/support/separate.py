"""Routers and workers that are started one by one, as on several machines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from cluster import DEADLINE, Cluster, environment, wait_for

COMMAND = [sys.executable, "-P", "-m", "baton.deploy.cli"]


class Separate:
    """Ended on exit, and none may be left."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._workers: list[subprocess.Popen[bytes]] = []
        self._routers: list[Cluster] = []

    def __enter__(self) -> Separate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for router in self._routers:
            if kind is not None:
                print("".join(router.output[-100:]))
            router.kill()
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            try:
                worker.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                worker.kill()
                raise

    def worker(self, role: str, name: str, controls: list[str], *options: str) -> None:
        """Without waiting for it to join."""
        joins = [word for control in controls for word in ("--join", control)]
        self._workers.append(subprocess.Popen(
            [*COMMAND, "worker", str(self._model), "--role", role, "--id", name, *joins,
             "--dtype", "float32", "--threads", "1", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env=environment(patient=True),
        ))

    def launch_router(self, control: str, name: str, *options: str) -> Cluster:
        """Without waiting for it. It answers when a worker has joined."""
        router = Cluster()
        router.command = [
            *COMMAND, "router", str(self._model), "--id", name, "--port", "0", "--control", control,
            "--strict-roles", *options,
        ]
        self._routers.append(router.launch())
        return router

    def joined(self, router: Cluster) -> Cluster:
        """Once it is ready and has all workers that were started."""
        router.wait_started()
        count = len(self._workers)
        wait_for(lambda: len(router.workers()) == count, f"{count} workers joined")
        return router

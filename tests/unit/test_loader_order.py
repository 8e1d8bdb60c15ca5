"""What a loader does first."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import cast

import pytest

from baton.deploy import loader
from baton.deploy.settings import WorkerSettings
from baton.deploy.status import StatusWriter
from baton.kvtransfer import memory_hooks


class Enough(Exception):
    pass


@pytest.mark.parametrize(("transport", "expected"), [
    ("ucx", ["hooks", "heap"]), ("inproc", ["heap"]),
])
def test_hooks_are_in_place_before_a_thread_takes_memory(
    monkeypatch: pytest.MonkeyPatch, transport: str, expected: list[str]
) -> None:
    done: list[str] = []

    def grow(num_bytes: int) -> None:
        done.append("heap")
        raise Enough

    monkeypatch.setattr(memory_hooks, "install", lambda: done.append("hooks"))
    monkeypatch.setattr(loader, "GrownHeap", grow)
    settings = SimpleNamespace(transport=transport, paced="made-up.json")
    status = SimpleNamespace(stage=lambda *_: None)
    with socket.socket(socket.AF_UNIX) as requests, pytest.raises(Enough):
        loader.run_loader(cast(WorkerSettings, settings), cast(StatusWriter, status), -1, requests)
    assert done == expected

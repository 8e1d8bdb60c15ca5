"""Settings are checked before anything runs, and reach a child unchanged."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baton.deploy import up as launching
from baton.deploy.listening import bind_listener, url_of
from baton.deploy.runtime_dir import runtime_directory
from baton.deploy.settings import (
    ModelSettings,
    RouterSettings,
    UpSettings,
    WorkerSettings,
    from_json,
    join_address,
    to_json,
    worker_counts,
)
from baton.deploy.topology import Placement
from baton.deploy.up import plan_children
from baton.protocol.errors import ConfigError
from baton.router.lanes import configure


def worker(**changes: Any) -> WorkerSettings:
    return WorkerSettings(**{"worker_id": "w", "role": "mixed", "join": ("ipc:///x",), **changes})


def up(**changes: Any) -> UpSettings:
    return UpSettings(**{"mixed": 1, **changes})


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ModelSettings(dtype="int8"), "--dtype must be one of auto, bfloat16"),
        (lambda: ModelSettings(block_size=0), "--block-size must be between 1 and 1024, got 0"),
        (lambda: ModelSettings(kv_blocks=4, kv_memory=1 << 30), "give one"),
        (lambda: ModelSettings(kv_blocks=1), "--kv-blocks must be at least 2"),
        (lambda: ModelSettings(max_model_len=1), "--max-model-len"),
        (lambda: worker(role="boss"), "--role must be one of prefill, decode, mixed, got 'boss'"),
        (lambda: worker(join=()), "--join"),
        (lambda: worker(join=("nowhere",)), "--join must be HOST:PORT"),
        (lambda: worker(device="gpu"), "--device"),
        (lambda: worker(max_running=64, max_batch_tokens=64), "--max-batch-tokens"),
        (lambda: worker(watchdog=float("nan")), "--watchdog"),
        (lambda: RouterSettings(port=70000), "--port must be between 0 and 65535, got 70000"),
        (lambda: RouterSettings(control=("tcp://host",)), "--control"),
        (lambda: RouterSettings(host="0.0.0.0"), "--api-key KEY, or --insecure"),
        (lambda: RouterSettings(host="example.org"), "--insecure"),
        (lambda: RouterSettings(api_key=" "), "--api-key"),
        (lambda: up(host="0.0.0.0"), "--insecure"),
        (lambda: UpSettings(), "no workers"),
        (lambda: UpSettings(prefill=1), "--decode 0 leaves nobody to decode"),
        (lambda: up(prefill=-1), "--prefill must be between 0 and 64, got -1"),
        (lambda: up(device="tpu"), "--device"),
        (lambda: up(max_running=10, max_batch_tokens=5), "--max-batch-tokens"),
    ],
)
def test_wrong_values_are_named(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"host": "127.0.0.1"}, {"host": "::1"}, {"host": "localhost"}, {"host": "[::1]"}]
)
def test_loopback_needs_no_key(changes: dict[str, Any]) -> None:
    RouterSettings(**changes)
    RouterSettings(host="0.0.0.0", api_key="k")
    RouterSettings(host="0.0.0.0", insecure=True)


def test_a_child_gets_what_was_meant() -> None:
    settings = worker(cpus=(0, 2), model=ModelSettings(model="m", kv_blocks=7), threads=2)
    assert from_json(to_json(settings), WorkerSettings) == settings
    router = RouterSettings(api_key="secret", control=("ipc:///a", "tcp://127.0.0.1:0"))
    assert from_json(to_json(router), RouterSettings) == router
    assert "secret" not in repr(router)
    assert b"\n" not in to_json(router)
    with pytest.raises(ConfigError, match="not a WorkerSettings"):
        from_json(to_json(router), WorkerSettings)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ((None, None, None), (1, 1, 0)),
        ((None, None, 2), (0, 0, 2)),
        ((2, None, None), (2, 1, 0)),
        ((1, 1, 1), (1, 1, 1)),
        ((0, 0, 1), (0, 0, 1)),
    ],
)
def test_counts(said: tuple[int | None, ...], meant: tuple[int, ...]) -> None:
    assert worker_counts(*said) == meant


def test_join_addresses() -> None:
    assert join_address("router:7777") == "tcp://router:7777"
    assert join_address("tcp://[::1]:7") == "tcp://[::1]:7"
    assert join_address("ipc:///run/x") == "ipc:///run/x"


@pytest.mark.parametrize("shared", [True, False])
def test_the_plan_of_a_cluster(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "can_share_weights", lambda placements: shared)
    settings = UpSettings(prefill=2, decode=1, port=0, control_port=0, api_key="k")
    placements = [Placement("cpu", 1, (number,), memory_share=1 / 3) for number in range(3)]
    with bind_listener(settings.host, 0) as listener:
        port = listener.getsockname()[1]
        specs = plan_children(settings, placements, listener, Path("/run/b"))
        router = from_json(specs[0].settings, RouterSettings)
        assert specs[0].pass_fds == (router.listen_fd,) == (listener.fileno(),)
        assert url_of(listener) == f"http://127.0.0.1:{port}"
    names = ["router", "loader", "prefill-0", "prefill-1", "decode-0"]
    assert [spec.name for spec in specs] == (names if shared else [names[0], *names[2:]])
    assert [spec.name for spec in specs if spec.essential] == ["router"]
    workers = specs[-3:]
    assert {spec.fork_of for spec in workers} == {"loader" if shared else None}
    assert router.port == port
    assert router.control == ("ipc:///run/b/control", "tcp://127.0.0.1:0")
    assert router.expected_workers == 3
    second = from_json(workers[1].settings, WorkerSettings)
    assert (second.role, second.cpus, second.join) == ("prefill", (1,), (router.control[0],))
    assert not any("k" in word for spec in specs for word in spec.argv[4:] if word == "k")


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use"):
            bind_listener("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 is no address of this machine"):
        bind_listener("192.0.2.1", 0)


def test_the_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime_directory() as path:
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "control").touch()
    assert not path.exists()
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with runtime_directory() as path:
        assert len(str(path)) < 90, "a socket's path is short"
    assert list(deep.iterdir()) == []


def test_what_killed_launchers_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, strange = tmp_path / "baton-left", tmp_path / "baton-notes"
    for folder in (left, strange):
        folder.mkdir()
    (left / "lock").touch()
    with runtime_directory() as first, runtime_directory() as second:
        assert not left.exists()
        assert strange.exists(), "not ours: it has no lock"
        assert first.exists(), "its launcher lives"
        assert second.exists()


def test_targets_and_lanes_reach_the_router() -> None:
    settings = RouterSettings(lanes=configure(0.3, 0.04, ["agents:weight=4"]))
    back = from_json(to_json(settings), RouterSettings)
    assert back == settings
    assert [(lane.name, lane.ttft, lane.itl, lane.weight) for lane in back.lanes] == [
        ("interactive", 0.3, 0.04, 10.0), ("batch", 60.0, 1.0, 1.0), ("agents", 0.3, 0.04, 4.0),
    ]
    assert RouterSettings().lanes == UpSettings(mixed=1).lanes == configure()

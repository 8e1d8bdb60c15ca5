"""Cores and GPUs among workers, from plain values."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.deploy.topology import (
    Core,
    allowed_cpus,
    assign_gpus,
    divide_cores,
    parse_cpu_list,
    place_workers,
    read_cores,
    read_quota,
)
from baton.protocol.errors import ConfigError


def cores(count: int, threads: int = 1, packages: int = 1) -> list[Core]:
    return [
        Core(index * packages // count, tuple(index + count * t for t in range(threads)))
        for index in range(count)
    ]


def test_one_core_each() -> None:
    assert divide_cores(cores(2), 2) == [(1, (0,)), (1, (1,))]


def test_fewer_cores_than_workers_are_shared() -> None:
    assert divide_cores(cores(2), 3) == [(1, (0,)), (1, (1,)), (1, (0,))]
    assert divide_cores(cores(1), 2) == [(1, (0,)), (1, (0,))]


def test_hardware_threads_come_with_their_core() -> None:
    assert divide_cores(cores(4, threads=2), 2) == [(2, (0, 1, 4, 5)), (2, (2, 3, 6, 7))]


def test_the_router_gets_a_core_where_there_are_many() -> None:
    shares = divide_cores(cores(9), 2)
    assert [threads for threads, _ in shares] == [4, 4]
    assert all(8 not in (cpus or ()) for _, cpus in shares)


def test_every_core_goes_to_one_worker() -> None:
    for count in range(1, 12):
        for workers in range(1, count + 1):
            shares = divide_cores(cores(count, threads=2, packages=2), workers)
            used = [cpu for _, cpus in shares for cpu in cpus or ()]
            assert len(used) == len(set(used))
            assert min(threads for threads, _ in shares) >= 1
            assert max(t for t, _ in shares) - min(t for t, _ in shares) <= 1


def test_a_worker_stays_within_a_package() -> None:
    mixed_up = [Core(index % 2, (index,)) for index in range(4)]
    assert [cpus for _, cpus in divide_cores(mixed_up, 2)] == [(0, 2), (1, 3)]


def test_nothing_is_pinned_under_a_quota() -> None:
    assert divide_cores(cores(16), 2, quota=3.0) == [(1, None), (1, None)]
    assert divide_cores(cores(16), 2, quota=8.0) == [(4, None), (4, None)]
    assert divide_cores(cores(2), 2, quota=2.0) == [(1, (0,)), (1, (1,))]


def test_gpus() -> None:
    assert assign_gpus(["a", "b"], 2) == ["a", "b"]
    assert assign_gpus(["a", "b"], 3) == ["a", "b", "a"]
    with pytest.raises(ConfigError, match="3 workers on 1 GPU"):
        assign_gpus(["a"], 3)


def test_cpu_lists() -> None:
    assert parse_cpu_list("0-2,8\n") == (0, 1, 2, 8)
    with pytest.raises(ValueError, match="invalid literal"):
        parse_cpu_list("a-b")


def test_quota(tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    assert read_quota(file) is None
    file.write_text("max 100000\n")
    assert read_quota(file) is None
    file.write_text("150000 100000\n")
    assert read_quota(file) == 1.5


def test_this_machine() -> None:
    ours = set(allowed_cpus())
    assert {cpu for core in read_cores() for cpu in core.cpus} == ours
    for placement in place_workers(2, "cpu"):
        assert placement.device == "cpu"
        assert placement.threads >= 1
        assert placement.memory_share == 0.5
        assert set(placement.cpus or ()) <= ours

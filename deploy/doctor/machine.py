"""CPU, memory, permissions and limits, read from `/proc`, `/sys` and the C library."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from baton.deploy.doctor.findings import Finding, Level
from baton.deploy.topology import allowed_cpus, read_cores, read_quota
from baton.protocol.units import format_bytes

_CAP_SYS_PTRACE = 19
_MIN_SHARED_MEMORY = 256 << 20
_MIN_FILES = 4096
_MIN_LOCKED = 64 << 20


def check_machine() -> Iterator[Finding]:
    yield from _cpu()
    yield from _memory()
    yield from _limits()
    yield from _permissions()


def _cpu() -> Iterator[Finding]:
    model, flags = _cpu_info()
    yield Finding("CPU", "model", model)
    if platform.machine() in ("x86_64", "AMD64"):
        yield _feature(flags, "avx512f", "AVX-512", "arithmetic at half the width or less")
        yield _feature(
            flags,
            "avx512_bf16",
            "bfloat16",
            "bfloat16 is emulated: --dtype float32 is faster, at twice the memory",
        )
        yield _feature(flags, "amx_bf16", "AMX", "prefill reaches a fraction of what AMX gives")
    cores, logical = read_cores(), len(list(allowed_cpus()))
    present = os.cpu_count() or logical
    value = f"{len(cores)} physical, {logical} logical of {present} usable"
    if len(cores) < 2:
        note = "prefill and decode workers take turns on one core"
        yield Finding("CPU", "cores", value, Level.LACK, note)
    elif logical < present:
        yield Finding("CPU", "cores", value, note="the affinity of this process excludes the rest")
    else:
        yield Finding("CPU", "cores", value)
    quota = read_quota()
    if quota is not None and quota < len(cores):
        note = "the control group throttles workers in mid-step: raise its CPU quota"
        yield Finding("CPU", "quota", f"{quota:g} CPUs", Level.LACK, note)


def _feature(flags: set[str], flag: str, what: str, cost: str) -> Finding:
    if flag in flags:
        return Finding("CPU", what, "yes")
    return Finding("CPU", what, "no", Level.LACK, cost)


def _cpu_info() -> tuple[str, set[str]]:
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return model, flags
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    return model, flags


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    value = f"{format_bytes(memory.available)} of {format_bytes(memory.total)} available"
    low = memory.available < 2 << 30
    note = "little room for weights and KV: limit them with --kv-memory" if low else ""
    yield Finding("memory", "main", value, Level.LACK if low else Level.OK, note)
    try:
        shared = shutil.disk_usage("/dev/shm")
    except OSError:
        yield Finding(
            "memory", "/dev/shm", "none", Level.LACK, "blocks go over TCP within this host"
        )
        return
    low = shared.free < _MIN_SHARED_MEMORY
    yield Finding(
        "memory",
        "/dev/shm",
        f"{format_bytes(shared.free)} of {format_bytes(shared.total)} free",
        Level.LACK if low else Level.OK,
        "UCX may fall to TCP within this host (containers: --shm-size=1g)" if low else "",
    )


def _limits() -> Iterator[Finding]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = files != resource.RLIM_INFINITY and files < _MIN_FILES
    note = "fewer connections than that at once: ulimit -n 65536" if low else ""
    yield Finding("limits", "open files", _limit(files), Level.LACK if low else Level.OK, note)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    low = locked != resource.RLIM_INFINITY and locked < _MIN_LOCKED
    note = "RDMA and pinned host memory fail beyond it: ulimit -l unlimited" if low else ""
    value = _limit(locked) if locked == resource.RLIM_INFINITY else format_bytes(locked)
    yield Finding("limits", "locked memory", value, Level.LACK if low else Level.OK, note)


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _permissions() -> Iterator[Finding]:
    yield Finding(
        "permissions",
        "ptrace (CMA)",
        _ptrace(),
        note="not needed: CMA is left unused, as a dying peer would take the survivor with it",
    )


def _ptrace() -> str:
    capable = False
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                capable = bool(int(line.split()[1], 16) >> _CAP_SYS_PTRACE & 1)
    except OSError:
        return "unknown"
    try:
        scope = Path("/proc/sys/kernel/yama/ptrace_scope").read_text().strip()
    except OSError:
        scope = "absent"
    allowed = capable or scope in ("absent", "0")
    return f"{'allowed' if allowed else 'restricted'} (yama {scope}, CAP_SYS_PTRACE {capable})"

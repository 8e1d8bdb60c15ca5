"""UCX: which transports there are, and which will carry blocks."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from baton.deploy.doctor.findings import Finding, Level

_RDMA = ("rc_mlx5", "rc_verbs", "dc_mlx5", "ud_mlx5", "ud_verbs", "rc_x", "srd", "gaudi_gdr")
_GPU = ("cuda_ipc", "cuda_copy", "gdr_copy", "rocm_ipc")
_TIMEOUT = 20.0


def check_fabric() -> Iterator[Finding]:
    tool = _tool()
    if tool is None:
        note = "no hand-off between processes: pip install ucxx-cu13 (brings libucx)"
        yield Finding("UCX", "library", "not found", Level.MISSING, note)
        return
    version, transports, devices = probe(*tool)
    if not transports:
        note = "ucx_info lists no transport: the library does not run here"
        yield Finding("UCX", "library", version or "broken", Level.MISSING, note)
        return
    yield Finding("UCX", "library", version)
    yield Finding("UCX", "transports", ", ".join(sorted(transports)))
    yield same_host(transports)
    yield cross_host(transports, devices)


def same_host(transports: Collection[str]) -> Finding:
    """What carries blocks between two workers of this machine."""
    shared = [name for name in ("posix", "sysv") if name in transports]
    if not shared:
        note = "no shared memory: a tenth of its bandwidth (containers: --ipc=host or --shm-size)"
        return Finding("UCX", "within this host", "tcp", Level.LACK, note)
    return Finding("UCX", "within this host", f"{' or '.join(shared)} (shared memory)")


def cross_host(transports: Collection[str], devices: Collection[str]) -> Finding:
    """What carries blocks to another machine."""
    rdma = sorted(set(transports) & set(_RDMA))
    if rdma:
        return Finding("UCX", "to other hosts", f"{', '.join(rdma)} (RDMA)")
    links = ", ".join(sorted(device for device in devices if device != "lo")) or "lo only"
    note = "no RDMA device or no permission for it: hand-offs between hosts take the TCP stack"
    return Finding("UCX", "to other hosts", f"tcp over {links}", Level.LACK, note)


def gpu_transports(transports: Collection[str]) -> list[str]:
    return sorted(set(transports) & set(_GPU))


def probe(binary: Path, libraries: Path) -> tuple[str, set[str], set[str]]:
    """(version, transports, network devices) as `ucx_info` tells them; empty where it fails."""
    path = os.environ.get("LD_LIBRARY_PATH")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{libraries}:{path}" if path else str(libraries),
    }
    try:
        told = subprocess.run(
            [binary, "-v", "-d"], env=environment, capture_output=True, text=True, timeout=_TIMEOUT
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "", set(), set()
    return parse_info(told)


def parse_info(told: str) -> tuple[str, set[str], set[str]]:
    """Reads the output of `ucx_info -v -d`."""
    version = re.search(r"Library version:\s*(\S+)", told)
    transports, devices, transport = set(), set(), ""
    for line in told.splitlines():
        if match := re.search(r"Transport:\s*(\S+)", line):
            transport = match[1]
            transports.add(transport)
        elif (match := re.search(r"Device:\s*(\S+)", line)) and transport == "tcp":
            devices.add(match[1])
    return version[1] if version else "", transports, devices


def _tool() -> tuple[Path, Path] | None:
    """`ucx_info` of the libucx wheel and the folder of its libraries."""
    spec = importlib.util.find_spec("libucx")
    for location in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(location) / "bin" / "ucx_info"
        if binary.is_file():
            return binary, Path(location) / "lib"
    return None

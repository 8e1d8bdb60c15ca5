"""Which cores and which GPU each worker of this machine gets.

The division is pure; what the machine has is read from `/sys` and NVML, and respects what the
process was given: its affinity, the CPU quota of its control group, CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from baton.protocol.errors import ConfigError

WORKERS_PER_GPU = 2
_CORES_TO_SPARE = 4
"""With at least so many cores per worker, one is left to the router."""


@dataclass(frozen=True, slots=True)
class Core:
    """One physical core and those of its hardware threads that we may use."""

    package: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """What one worker gets."""

    device: str
    """"cpu" or "cuda:0", which is the only GPU it sees."""
    threads: int
    cpus: tuple[int, ...] | None
    """None: not pinned."""
    visible_gpu: str | None = None
    """Value for its CUDA_VISIBLE_DEVICES."""
    memory_share: float = 1.0
    """Its part of the device's memory."""


def divide_cores(
    cores: Sequence[Core], workers: int, quota: float | None = None
) -> list[tuple[int, tuple[int, ...] | None]]:
    """(threads, CPUs to pin to) per worker, in order.

    Neighbouring cores stay together. With fewer cores than workers, workers share cores. Under a
    quota below the number of cores nothing is pinned: which cores are free then changes.
    """
    if quota is not None and quota < len(cores):
        return [(max(1, math.floor(quota / workers)), None)] * workers
    ordered = sorted(cores, key=lambda core: (core.package, core.cpus))
    usable = len(ordered) - 1 if len(ordered) >= _CORES_TO_SPARE * workers + 1 else len(ordered)
    if usable < workers:
        return [(1, ordered[index % usable].cpus) for index in range(workers)]
    shares: list[tuple[int, tuple[int, ...] | None]] = []
    for index in range(workers):
        mine = ordered[index * usable // workers : (index + 1) * usable // workers]
        shares.append((len(mine), tuple(sorted(cpu for core in mine for cpu in core.cpus))))
    return shares


def assign_gpus(gpus: Sequence[str], workers: int) -> list[str]:
    """One GPU per worker, the first ones doubly when there are too few. Raises ConfigError beyond
    `WORKERS_PER_GPU` on one."""
    if workers > WORKERS_PER_GPU * len(gpus):
        raise ConfigError(
            f"{workers} workers on {len(gpus)} GPU(s): at most {WORKERS_PER_GPU} can share one; "
            "start fewer, or use --device cpu"
        )
    return [gpus[index % len(gpus)] for index in range(workers)]


def can_share_weights(placements: Sequence[Placement]) -> bool:
    """One copy of the weights for all: on CPUs that reach all memory equally fast, and where
    processes can be forked and waited for as `processes` does it (Linux)."""
    nodes = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    return len(nodes) == 1 and all(placement.device == "cpu" for placement in placements)


def place_workers(workers: int, device: str = "auto") -> list[Placement]:
    """A placement for each worker on this machine. `device`: "auto" takes GPUs where there are
    some and the installed torch can use them. Raises ConfigError."""
    cores = divide_cores(read_cores(), workers, read_quota())
    gpus = usable_gpus() if device != "cpu" else []
    if not gpus:
        if device == "cuda":
            raise ConfigError(f"--device cuda: {why_no_gpu()}")
        share = 1 / workers
        return [Placement("cpu", threads, cpus, memory_share=share) for threads, cpus in cores]
    assigned = assign_gpus(gpus, workers)
    return [
        Placement("cuda:0", threads, cpus, gpu, 1 / assigned.count(gpu))
        for (threads, cpus), gpu in zip(cores, assigned, strict=True)
    ]


# -- what this machine has -------------------------------------------------------------------


def read_cores() -> list[Core]:
    """The physical cores among the CPUs that this process may use."""
    cores: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for cpu in sorted(allowed_cpus()):
        folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            siblings = parse_cpu_list((folder / "thread_siblings_list").read_text())
            package = int((folder / "physical_package_id").read_text())
        except (OSError, ValueError):
            siblings, package = (cpu,), 0
        cores.setdefault((package, siblings), []).append(cpu)
    return [Core(package, tuple(cpus)) for (package, _), cpus in cores.items()]


def allowed_cpus() -> Iterable[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """`"0-2,8"` to (0, 1, 2, 8)."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        cpus.extend(range(int(low), int(high or low) + 1))
    return tuple(cpus)


def read_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """CPUs' worth of time that the control group grants; None is no limit."""
    try:
        granted, period = path.read_text().split()
        return None if granted == "max" else int(granted) / int(period)
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Gpu:
    uuid: str
    name: str
    memory: int
    """Bytes."""
    driver: str


def read_gpus() -> list[Gpu]:
    """All GPUs that NVML sees; none without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            gpus.append(
                Gpu(
                    str(pynvml.nvmlDeviceGetUUID(handle)),
                    str(pynvml.nvmlDeviceGetName(handle)),
                    int(memory.total),
                    driver,
                )
            )
        return gpus
    finally:
        pynvml.nvmlShutdown()


def usable_gpus() -> list[str]:
    """Values for CUDA_VISIBLE_DEVICES, one per GPU that this process may use and torch can."""
    if not torch_has_cuda():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [entry.strip() for entry in visible.split(",") if entry.strip() not in ("", "-1")]
    return [gpu.uuid for gpu in read_gpus()]


def torch_has_cuda() -> bool:
    """Whether the installed torch was built with CUDA, told without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
    except OSError:
        return False
    return re.search(r"^cuda\b[^=]*=\s*['\"]", text, re.MULTILINE) is not None


def why_no_gpu() -> str:
    """One line for people."""
    if not torch_has_cuda():
        return "the installed torch is a CPU build"
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        return "CUDA_VISIBLE_DEVICES hides all GPUs"
    return "no GPU found (is the NVIDIA driver loaded?)"

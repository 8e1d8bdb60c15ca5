"""Compiling the C kernels once per machine, and loading them.

The shared library lies in the user's cache folder under a name that says what it was built from:
source, compiler, flags, CPU and torch. Several workers that start together may all build it; each
renames its own result into place, so none sees half a file.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)

_SOURCES = ("baton_kernels.c", "typed.h")
# Sums may be reordered, so that they vectorise. No -ffast-math: it would switch the whole process
# to flushing denormals, and infinities have a meaning here.
_FLAGS = (
    "-O3", "-march=native", "-mprefer-vector-width=512", "-std=gnu11", "-shared", "-fPIC",
    "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros",
    "-fassociative-math", "-freciprocal-math", "-w",
)  # fmt: skip
_TIMEOUT = 120.0


@cache
def load() -> ctypes.CDLL | None:
    """The kernels, compiled if need be; None where that does not work (no compiler, another
    processor family), which is logged once: everything runs without them, only slower."""
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    if platform.machine() not in ("x86_64", "aarch64") or compiler is None:
        log.warning("no C compiler: decode steps run on torch's own kernels, which is slower")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().partition("\n")[0] or f"exit code {error.returncode}"
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    log.warning("C kernels not built (%s): using torch's own, which is slower", reason)
    return None


def cache_folder() -> Path:
    """Raises RuntimeError where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "baton" / "kernels"


def _built(compiler: str) -> Path:
    here = Path(__file__).parent
    key = hashlib.sha256()
    for name in _SOURCES:
        key.update((here / name).read_bytes())
    for text in (compiler, *_FLAGS, torch.__version__, _cpu()):
        key.update(text.encode() + b"\0")
    target = cache_folder() / f"baton_kernels-{key.hexdigest()[:20]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fresh = Path(scratch) / "kernels.so"
        subprocess.run(
            [compiler, *_FLAGS, str(here / _SOURCES[0]), "-o", str(fresh), "-lm"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        fresh.replace(target)
    return target


def _cpu() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))

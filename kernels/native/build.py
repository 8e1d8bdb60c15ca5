"""Compiling the C kernels once per machine, and loading them.

Each shared library lies in the user's cache folder under a name that says what it was built from:
source, compiler, flags, CPU and what else it depends on. Several workers that start together may
all build it; each renames its own result into place, so none sees half a file.
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
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

log = logging.getLogger(__name__)

_SOURCES = ("baton_kernels.c", "typed.h")
_COPY_SOURCES = ("block_copy.c",)
_COPY_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-pthread", "-w")
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
    # They run in one process with torch, and share its OpenMP.
    return _load(_SOURCES, _FLAGS, version("torch"))


@cache
def load_block_copy() -> ctypes.CDLL | None:
    """What copies blocks between processes (`copying.py`); needs no torch. None as for `load`."""
    return _load(_COPY_SOURCES, _COPY_FLAGS, "")


def _load(sources: Sequence[str], flags: Sequence[str], depends: str) -> ctypes.CDLL | None:
    compiler = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    if platform.machine() not in ("x86_64", "aarch64") or compiler is None:
        log.warning("no C compiler: without %s everything works, but slower", sources[0])
        return None
    try:
        return ctypes.CDLL(str(_built(compiler, sources, flags, depends)))
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().partition("\n")[0] or f"exit code {error.returncode}"
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    log.warning("%s was not built (%s): everything works, but slower", sources[0], reason)
    return None


def cache_folder() -> Path:
    """Raises RuntimeError where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "baton" / "kernels"


def _built(
    compiler: str, sources: Sequence[str], flags: Sequence[str], depends: str
) -> Path:
    here = Path(__file__).parent
    key = hashlib.sha256()
    for name in sources:
        key.update((here / name).read_bytes())
    for text in (compiler, *flags, depends, _cpu()):
        key.update(text.encode() + b"\0")
    target = cache_folder() / f"{Path(sources[0]).stem}-{key.hexdigest()[:20]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fresh = Path(scratch) / "kernels.so"
        subprocess.run(
            [compiler, *flags, str(here / sources[0]), "-o", str(fresh), "-lm"],
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

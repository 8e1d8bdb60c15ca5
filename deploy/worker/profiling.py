"""Where a worker's idea of its own speed comes from before its first step: a profile of the same
model on the same device, kept from an earlier start or from `baton profile`, or a short one made
now and kept for the next start.

A profile is only where the fit begins, so an old one does no harm, and one that cannot be read or
written costs a line in the log.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path

import torch

from baton.engine.kv_memory import KVMemory
from baton.engine.runner import ModelRunner
from baton.engine.step_fit import fit_steps
from baton.engine.step_profile import Bounds, StepTimer, self_profile
from baton.protocol.curves import StepCurve
from baton.protocol.profile import Profile, decode_profile, encode_profile, profile_key
from baton.protocol.records import ModelCard

log = logging.getLogger(__name__)

_SCRATCH_BLOCKS = 64
"""Blocks of the pool that steps of a profile read and write: more than fit into a cache near the
cores, and few enough that touching them takes some milliseconds."""

_ENOUGH_STEPS = 5
"""Kinds of step in a profile that is worth keeping; on a busy machine there was time for less."""


def start_curve(
    runner: ModelRunner, memory: KVMemory, card: ModelCard, bounds: Bounds, seconds: float
) -> StepCurve | None:
    """The curve to start from. Takes `seconds` where there is no profile yet; 0 is not to make
    one. Only before serving: blocks are overwritten."""
    key = device_key(card.fingerprint, memory.device, memory.layout.block_size)
    kept = load_profile(key)
    if kept is not None:
        return kept.curve
    if seconds <= 0:
        return None
    timer = step_timer(runner, memory, _SCRATCH_BLOCKS)
    samples = self_profile(timer, bounds, seconds)
    if not samples:
        return None
    made = Profile(
        model=card.name,
        fingerprint=card.fingerprint,
        dtype=card.dtype,
        device=memory.device.type,
        device_name=device_name(memory.device),
        threads=torch.get_num_threads(),
        block_size=memory.layout.block_size,
        curve=fit_steps(samples),
        samples=tuple(samples),
    )
    if len(samples) >= _ENOUGH_STEPS:
        keep_profile(made)
    return made.curve


def step_timer(runner: ModelRunner, memory: KVMemory, num_blocks: int) -> StepTimer:
    """Over the first `num_blocks`, which are zeroed: untouched memory would read faster."""
    num_blocks = min(num_blocks, memory.num_blocks)
    memory.tensor[:num_blocks].zero_()
    return StepTimer(runner, num_blocks, memory.layout.block_size)


def device_key(fingerprint: str, device: torch.device, block_size: int) -> tuple[str, ...]:
    """Of a profile of this process as it is now."""
    return profile_key(
        fingerprint, device.type, device_name(device), torch.get_num_threads(), block_size
    )


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def profile_path(key: tuple[str, ...]) -> Path:
    """Raises RuntimeError where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    name = hashlib.sha256("\0".join(key).encode()).hexdigest()[:24]
    return Path(base) / "baton" / "profiles" / f"{name}.json"


def load_profile(key: tuple[str, ...]) -> Profile | None:
    try:
        profile = decode_profile(profile_path(key).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError) as error:
        log.warning("the kept profile is not used: %s", error)
        return None
    return profile if profile.key == key else None


def keep_profile(profile: Profile) -> None:
    """For the next start; several workers may do so at once."""
    try:
        write_profile(profile, profile_path(profile.key))
    except (OSError, RuntimeError) as error:
        log.warning("the profile is not kept for the next start: %s", error)


def write_profile(profile: Profile, path: Path) -> None:
    """Whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(encode_profile(profile))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise

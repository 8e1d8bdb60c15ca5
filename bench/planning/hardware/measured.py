"""Step times that `baton profile` measured."""

from __future__ import annotations

from pathlib import Path

from baton.bench.planning.hardware.links import link_of
from baton.bench.simulator.machine import Machine
from baton.engine.limits import SchedulerLimits
from baton.protocol.kvlayout import KVLayout
from baton.protocol.profile import Profile, decode_profile

_LINK = 2e9
_POOL_BYTES = 2e9


def read_profile(path: Path) -> Profile:
    """Raises OSError, ValueError."""
    return decode_profile(path.read_bytes())


def machine_of(profile: Profile) -> Machine:
    """Pool and link are those of a small machine where the file does not state them."""
    layout = KVLayout(30, 3, 64, profile.block_size, "bfloat16")
    return Machine(
        name=f"{profile.model}-{profile.device}",
        curve=profile.curve,
        link=link_of(_LINK, 1e-3),
        layout=layout,
        num_blocks=int(_POOL_BYTES / layout.block_bytes),
        limits=SchedulerLimits(
            max_model_len=8192, max_running=64, max_batch_tokens=512, prefill_chunk=512
        ),
    )

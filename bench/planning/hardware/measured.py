"""Step times that `baton profile` measured."""

from __future__ import annotations

from pathlib import Path

from baton.bench.planning.hardware.links import link_of
from baton.bench.simulator.machine import Machine
from baton.engine.limits import SchedulerLimits
from baton.protocol.kvlayout import KVLayout
from baton.protocol.profile import Pool, Profile, decode_profile

_LINK = 2e9
_LATENCY = 1e-3
_SMALL = Pool(
    num_layers=30,
    num_kv_heads=3,
    head_dim=64,
    dtype="bfloat16",
    blocks=0,
    max_model_len=8192,
    max_running=64,
    max_batch_tokens=512,
)
_POOL_BYTES = 2e9


def read_profile(path: Path) -> Profile:
    """Raises OSError, ValueError."""
    return decode_profile(path.read_bytes())


def machine_of(profile: Profile) -> Machine:
    """Pool and link are those of a small machine where the file does not state them."""
    pool = profile.pool or _SMALL
    layout = KVLayout(
        pool.num_layers, pool.num_kv_heads, pool.head_dim, profile.block_size, pool.dtype
    )
    return Machine(
        name=f"{profile.model}-{profile.device}",
        curve=profile.curve,
        link=profile.link or link_of(_LINK, _LATENCY),
        layout=layout,
        num_blocks=pool.blocks or int(_POOL_BYTES / layout.block_bytes),
        limits=SchedulerLimits(
            max_model_len=pool.max_model_len,
            max_running=pool.max_running,
            max_batch_tokens=pool.max_batch_tokens,
        ),
    )


def what_is_guessed(profile: Profile) -> str:
    """For a note; empty when nothing is."""
    guessed = [name for name, stated in (("pool", profile.pool), ("link", profile.link))
               if stated is None]
    return f"; {' and '.join(guessed)} assumed" if guessed else ""

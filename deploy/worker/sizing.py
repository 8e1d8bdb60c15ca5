"""How much of this device the KV pool gets, and in which dtype the model runs."""

from __future__ import annotations

import logging
from pathlib import Path

import psutil
import torch

from baton.deploy.settings import ModelSettings
from baton.protocol.errors import ConfigError
from baton.protocol.kvlayout import KVLayout
from baton.protocol.units import format_bytes

log = logging.getLogger(__name__)

_CPU_SHARE = 0.25
"""Of the memory that is free now. Pages are touched as they are used, and the machine has other
tenants."""
_CPU_CAP = 4 << 30
_GPU_SHARE = 0.85
"""Of what is free after the weights, divided among the workers of the GPU: the rest is for
activations."""


def resolve_dtype(wanted: str, stored: str, device: torch.device) -> str:
    """"auto" to a dtype name: the stored one on a GPU (float32 becomes bfloat16); on a CPU
    bfloat16 where it has instructions for it, else float32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if stored == "float32" else stored
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def pool_blocks(
    settings: ModelSettings,
    layout: KVLayout,
    device: torch.device,
    memory_share: float,
    max_model_len: int,
) -> tuple[int, int]:
    """(KV blocks, longest context). Raises ConfigError when what was asked for does not fit.

    Unless the user asked for a context length, it shrinks to what the pool can hold.
    """
    wanted = layout.blocks_for(max_model_len) + 1
    if settings.kv_blocks is not None:
        blocks = settings.kv_blocks
    elif settings.kv_memory is not None:
        blocks = settings.kv_memory // layout.block_bytes
    else:
        blocks = _free_bytes(device, memory_share) // layout.block_bytes
    if blocks < 2:
        raise ConfigError(
            f"the KV pool has room for {blocks} blocks of {format_bytes(layout.block_bytes)}: "
            "give --kv-memory, or free some memory"
        )
    if blocks >= wanted:
        return blocks, max_model_len
    # One block stays free for the token that is being written.
    fits = (blocks - 1) * layout.block_size
    if settings.max_model_len is not None:
        raise ConfigError(
            f"--max-model-len {max_model_len} needs {wanted} KV blocks "
            f"({format_bytes(wanted * layout.block_bytes)}), the pool has {blocks}: "
            f"at most {fits} tokens fit"
        )
    log.warning("context shortened from %d to %d tokens, all that %d KV blocks hold",
                max_model_len, fits, blocks)
    return blocks, fits


def _free_bytes(device: torch.device, memory_share: float) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _GPU_SHARE * memory_share)
    free = psutil.virtual_memory().available
    return min(int(free * _CPU_SHARE * memory_share), _CPU_CAP)


def _cpu_has_bfloat16() -> bool:
    """x86: AVX512_BF16 or AMX_BF16; Arm: BF16."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)

"""A worker's engine without a model (`--paced`): a profile says how long its steps take.

Workers of one profile are of one model, and of none that has weights. Router and clients need not
know; the router is given a model for its tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from baton.deploy.settings import WorkerSettings
from baton.deploy.status import StatusWriter
from baton.deploy.worker.build import EngineParts
from baton.engine.block_pool import BlockPool
from baton.engine.kv_memory import KVMemory
from baton.engine.limits import SchedulerLimits
from baton.engine.paced_runner import PacedRunner
from baton.engine.scheduler import Scheduler
from baton.protocol.errors import ConfigError
from baton.protocol.kvlayout import KVLayout
from baton.protocol.profile import Profile, decode_profile
from baton.protocol.records import ModelCard

_MAX_MODEL_LEN = 32_768
_BLOCKS = 4096
_BATCH_TOKENS = 2048
_VOCABULARY = 32_000


def build_paced(settings: WorkerSettings, status: StatusWriter) -> EngineParts:
    """Raises ConfigError, one line, for a file that is no profile."""
    status.stage("reading the profile")
    profile = _read(settings.paced or "")
    wanted = settings.model
    layout = KVLayout(1, 1, 8, wanted.block_size, "float32")
    num_blocks = wanted.kv_blocks or _BLOCKS
    memory = KVMemory(layout, num_blocks, "cpu")
    card = ModelCard(
        fingerprint=f"paced {profile.fingerprint}",
        name=profile.model,
        max_model_len=wanted.max_model_len or _MAX_MODEL_LEN,
        vocab_size=_VOCABULARY,
        dtype=layout.dtype,
    )
    scheduler = Scheduler(
        BlockPool(num_blocks, changes=[]),
        SchedulerLimits(
            max_model_len=card.max_model_len,
            max_running=settings.max_running,
            max_batch_tokens=settings.max_batch_tokens or _BATCH_TOKENS,
        ),
        block_size=layout.block_size,
        role=settings.role,
        salt=(card.fingerprint, layout.dtype),
    )
    runner = PacedRunner(profile.curve, layout, seed=crc32(settings.worker_id.encode()))
    return EngineParts(card, layout, num_blocks, memory, scheduler, runner, profile.curve)


def _read(path: str) -> Profile:
    try:
        return decode_profile(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"--paced {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--paced {path}: {error}") from error

"""From settings to an engine: model, weights, KV pool, scheduler, warm-up. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from baton.deploy.heap import keep_freed_memory
from baton.deploy.settings import WorkerSettings
from baton.deploy.status import LOADING, StatusWriter
from baton.deploy.worker.profiling import start_curve
from baton.deploy.worker.sizing import pool_blocks, resolve_dtype
from baton.engine.block_pool import BlockPool
from baton.engine.commands import StepCompleted
from baton.engine.core import Engine
from baton.engine.kv_memory import KVMemory
from baton.engine.limits import SchedulerLimits
from baton.engine.model.config import ModelConfig
from baton.engine.model.fingerprint import fingerprint
from baton.engine.model.source import ModelSource, load_config, resolve_model, stored_tensors
from baton.engine.models.llama import LlamaModel
from baton.engine.models.registry import build_model
from baton.engine.paced_runner import PacedRunner
from baton.engine.runner import ModelRunner
from baton.engine.scheduler import Scheduler
from baton.engine.step_profile import Bounds
from baton.engine.weights import iter_weights
from baton.protocol.curves import StepCurve
from baton.protocol.errors import ConfigError
from baton.protocol.kvlayout import KVLayout
from baton.protocol.records import ModelCard

_BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
"""Prompt tokens per step unless told otherwise: enough to keep the device's arithmetic busy."""


@dataclass(frozen=True)
class EngineParts:
    """What the I/O side needs to know of the engine, and the engine yet to be started."""

    card: ModelCard
    layout: KVLayout
    num_blocks: int
    memory: KVMemory
    scheduler: Scheduler
    runner: ModelRunner | PacedRunner
    curve: StepCurve | None
    """How long steps take, by a profile."""

    def engine(
        self,
        publish: Callable[[StepCompleted], None],
        on_fatal: Callable[[BaseException], None],
    ) -> Engine:
        return Engine(self.scheduler, self.runner, publish, on_fatal=on_fatal)


@dataclass(frozen=True)
class LoadedModel:
    """Weights in place. On CPU, workers that are forks of one process share them."""

    source: ModelSource
    config: ModelConfig
    dtype: str
    device: torch.device
    model: LlamaModel
    warm: bool = False
    """Each kind of step has run already."""


def load_model(settings: WorkerSettings, status: StatusWriter) -> LoadedModel:
    """Raises ConfigError, one line, for a model that cannot be."""
    device = _device(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    status.stage("reading the model's description")
    wanted = settings.model
    source = resolve_model(wanted.model)
    config = load_config(source)
    dtype = resolve_dtype(wanted.dtype, config.torch_dtype, device)
    if (wanted.max_model_len or 0) > config.max_position:
        raise ConfigError(
            f"--max-model-len {wanted.max_model_len} is beyond the {config.max_position} tokens "
            f"that {source.name} was trained for"
        )

    status.stage(LOADING, 0.0)
    model = build_model(config, dtype=getattr(torch, dtype), device=device)
    model.load_weights(_counted(iter_weights(source), len(stored_tensors(source)), status))
    keep_freed_memory()  # what runs now allocates and frees the same in each step
    return LoadedModel(source, config, dtype, device, model)


def build_engine(
    settings: WorkerSettings, loaded: LoadedModel, status: StatusWriter
) -> EngineParts:
    """Raises ConfigError, one line, for a size that cannot be."""
    wanted, config, device = settings.model, loaded.config, loaded.device
    model, dtype = loaded.model, loaded.dtype
    max_model_len = wanted.max_model_len or config.max_position
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)

    status.stage("allocating KV blocks")
    layout = model.kv_layout(wanted.block_size)
    num_blocks, max_model_len = pool_blocks(
        wanted, layout, device, settings.memory_share, max_model_len
    )
    memory = KVMemory(layout, num_blocks, device)
    card = ModelCard(
        fingerprint=fingerprint(loaded.source, config, dtype),
        name=loaded.source.name,
        max_model_len=max_model_len,
        vocab_size=config.vocab_size,
        dtype=dtype,
    )
    limits = SchedulerLimits(
        max_model_len=max_model_len,
        max_running=settings.max_running,
        max_batch_tokens=settings.max_batch_tokens or _BATCH_TOKENS[device.type],
    )
    scheduler = Scheduler(
        BlockPool(num_blocks, changes=[]),
        limits,
        block_size=wanted.block_size,
        role=settings.role,
        salt=(card.fingerprint, layout.dtype),
    )
    runner = ModelRunner(model, memory)

    status.stage("warming up")
    if loaded.warm:
        runner.warm_up(prefill_tokens=1, batch=1)  # threads, and pages that a fork copies
    else:
        runner.warm_up()
    bounds = Bounds.of(limits, num_blocks, wanted.block_size)
    curve = start_curve(runner, memory, card, bounds, settings.profile_seconds)
    return EngineParts(card, layout, num_blocks, memory, scheduler, runner, curve)


def warm_up(loaded: LoadedModel, block_size: int) -> LoadedModel:
    """The same after each kind of step, on a pool of a few blocks."""
    memory = KVMemory(loaded.model.kv_layout(block_size), 8, loaded.device)
    ModelRunner(loaded.model, memory).warm_up()
    return replace(loaded, warm=True)


def _device(settings: WorkerSettings) -> torch.device:
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {settings.device}: this torch ({torch.__version__}) sees no GPU; "
            "run `baton doctor`, or use --device cpu"
        )
    return device


def _counted(
    weights: Iterator[tuple[str, torch.Tensor]], total: int, status: StatusWriter
) -> Iterator[tuple[str, torch.Tensor]]:
    """The same weights, with progress told every few percent."""
    told = 0
    for done, item in enumerate(weights):
        if done * 20 // total > told:
            told = done * 20 // total
            status.stage(LOADING, done / total)
        yield item

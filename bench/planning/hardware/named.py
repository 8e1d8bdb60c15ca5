"""Workers of a named device: step times from measured kernels where there are any, else from its
figures; a KV pool of what is left beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.bench.planning.hardware.devices import DEVICES, Device
from baton.bench.planning.hardware.links import link_of
from baton.bench.planning.hardware.roofline import Roofline, pool_tokens
from baton.bench.planning.hardware.silicon import ENGINES, INSTALL, Silicon, installed
from baton.bench.planning.models import ModelShape
from baton.bench.simulator.machine import Machine
from baton.engine.limits import SchedulerLimits
from baton.protocol.curves import StepCurve
from baton.protocol.errors import ConfigError

SOURCES = ("silicon", "roofline", *ENGINES)
SIZES = (1, 2, 4, 8)
"""Tensor-parallel sizes, unless asked for others."""
BLOCK_SIZE = 16
_MAX_RUNNING = 256
_BATCH_TOKENS = 8192
_CHUNK = 2048
"""Tokens of one prompt in a step: from here on larger ones are hardly faster."""
SILICON_ERROR = 0.08
ROOFLINE_ERROR = 0.11
"""Medians of |predicted / measured - 1| of time per token, by `baton bench planner`."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A device that was asked for by name."""

    name: str
    device: Device
    source: str | None
    """One of SOURCES; None: silicon where it is installed and knows this, else roofline."""

    @classmethod
    def parse(cls, text: str) -> Named | None:
        """`h100` or `h100:roofline`; None where it names no device. Raises ConfigError."""
        name, _, source = text.lower().partition(":")
        if name not in DEVICES:
            return None
        if source and source not in SOURCES:
            raise ConfigError(
                f"{text}: step times of {name} come from one of {', '.join(SOURCES)}"
            )
        return cls(name=name, device=DEVICES[name], source=source or None)


@dataclass(frozen=True, kw_only=True)
class Found:
    machine: Machine
    devices: int
    origin: str
    error: float
    note: str


def workers_of(named: Named, model: ModelShape, sizes: Sequence[int]) -> list[Found]:
    """One for each tensor-parallel size that holds the model. Raises ConfigError when none does,
    and when the source that was asked for does not know it."""
    found = []
    refused = []
    for size in sizes or SIZES:
        if model.heads % size:
            refused.append(f"{model.heads} heads are no multiple of {size}")
            continue
        blocks = pool_tokens(model, named.device, size) // BLOCK_SIZE
        if blocks * BLOCK_SIZE < _BATCH_TOKENS:
            refused.append(f"{size} x {named.device.memory / 1e9:.0f} GB hold its "
                           f"{model.weight_bytes / 1e9:.0f} GB of weights and no cache to speak of")
            continue
        found.append(_worker(named, model, size, blocks))
    if not found:
        raise ConfigError(f"{model.name} on {named.name}: {'; '.join(refused)}")
    return found


def _worker(named: Named, model: ModelShape, size: int, blocks: int) -> Found:
    curve, origin, error, note = _curve(named, model, size)
    tokens = blocks * BLOCK_SIZE
    machine = Machine(
        name=f"{model.name}-{model.dtype}-{named.name}-tp{size}",
        curve=curve,
        link=link_of(named.device.network * size),
        layout=model.layout(BLOCK_SIZE),
        num_blocks=blocks,
        limits=SchedulerLimits(
            max_model_len=min(model.max_position, tokens - BLOCK_SIZE),
            max_running=_MAX_RUNNING,
            max_batch_tokens=_BATCH_TOKENS,
            prefill_chunk=_CHUNK,
        ),
    )
    return Found(machine=machine, devices=size, origin=origin, error=error, note=note)


def _curve(named: Named, model: ModelShape, size: int) -> tuple[StepCurve, str, float, str]:
    why = ""
    if named.source != "roofline":
        try:
            return _silicon(named, model, size)
        except ConfigError as error:
            if named.source is not None:
                raise
            why = f"; {error}" if installed() else f"; measured kernels: {INSTALL}"
    fitted = Roofline(model, named.device, size).curve()
    device = named.device
    return fitted.curve, "roofline", max(ROOFLINE_ERROR, fitted.error), (
        f"roofline: {device.bandwidth / 1e12:.2f} TB/s, {device.bf16 / 1e12:.0f} TFLOP/s{why}"
    )


def _silicon(named: Named, model: ModelShape, size: int) -> tuple[StepCurve, str, float, str]:
    if named.device.silicon is None:
        raise ConfigError(f"the database of measured kernels has no {named.name}")
    engine = named.source if named.source in ENGINES else ENGINES[0]
    fitted = Silicon(model, named.device.silicon, size, engine).curve()
    return fitted.curve, "silicon", max(SILICON_ERROR, fitted.error), (
        f"measured kernels of {engine} on {named.device.silicon}"
    )

"""Predictions for measured rows, from measured kernels and from a roofline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import msgspec
import numpy as np

from baton.bench.planning.accuracy.closed_loop import Seen, closed_loop
from baton.bench.planning.accuracy.rows import SiliconRow
from baton.bench.planning.hardware.devices import DEVICES
from baton.bench.planning.hardware.roofline import Efficiency, Roofline, pool_tokens
from baton.bench.planning.hardware.silicon import Silicon
from baton.bench.planning.models import model_shape
from baton.bench.quantiles import quantile
from baton.protocol.curves import StepCurve
from baton.protocol.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A serving engine, as it was measured."""

    filling: str
    """Its default, see `one_worker.FILLING`."""
    shortest: float
    """Of fixed lengths, see `SiliconRow.load`. Fitted, to the two engines that mix together."""


PEERS = {
    "vllm": Peer(filling="mixed", shortest=0.96),
    "trtllm": Peer(filling="whole", shortest=0.96),
    "sglang": Peer(filling="prompts first", shortest=1.0),
}

Curves = Callable[[SiliconRow], StepCurve]
"""Of the worker that a row was measured on. Raises ConfigError for one that it does not know."""


def silicon_curves() -> Curves:
    """From measured kernels, and what the engines' hosts add."""

    @cache
    def curve(model: str, dtype: str, system: str, devices: int, engine: str) -> StepCurve:
        shape = model_shape(model, dtype)
        return Silicon(shape, system, devices, engine, kv_fp8=dtype == "fp8").curve().curve

    return lambda row: curve(row.model, row.dtype, row.system, row.devices, row.engine)


def roofline_curves(efficiency: Efficiency | None = None) -> Curves:
    @cache
    def curve(model: str, dtype: str, device: str, devices: int) -> StepCurve:
        return Roofline(
            model_shape(model, dtype),
            DEVICES[device],
            devices,
            efficiency or Efficiency(),
            kv_byte=_kv_byte(dtype),
        ).curve().curve

    return lambda row: curve(row.model, row.dtype, row.device, row.devices)


def seen_by_clients(row: SiliconRow, curve: StepCurve, peer: Peer | None = None) -> Seen:
    """What they should have measured."""
    peer = peer or PEERS[row.engine]
    shape = model_shape(row.model, row.dtype)
    return closed_loop(
        msgspec.structs.replace(curve, spread=0.0),
        row.load(peer.shortest),
        filling=peer.filling,
        kv_tokens=max(
            row.prompt + row.output,
            pool_tokens(shape, DEVICES[row.device], row.devices, _kv_byte(row.dtype)),
        ),
    )


class Errors(NamedTuple):
    """Of |predicted / measured - 1|; `bias` is the median with its sign."""

    rows: int
    median: float
    p90: float
    bias: float


class Judged(NamedTuple):
    row: SiliconRow
    ttft: float
    """Predicted / measured - 1."""
    tpot: float


def judge(rows: Iterable[SiliconRow], curves: Curves) -> tuple[list[Judged], list[str]]:
    """(errors by row, why others could not be judged)."""
    judged: list[Judged] = []
    missing: list[str] = []
    for row in rows:
        try:
            curve = curves(row)
        except ConfigError as error:
            missing.append(str(error))
            continue
        seen = seen_by_clients(row, curve)
        judged.append(Judged(row, seen.ttft / row.ttft - 1, seen.tpot / row.tpot - 1))
    return judged, missing


def errors(values: Iterable[float]) -> Errors:
    found = np.array(list(values))
    if not found.size:
        return Errors(0, float("nan"), float("nan"), float("nan"))
    size = np.abs(found)
    return Errors(
        found.size, float(np.median(size)), quantile(size, 0.9) or 0.0, float(np.median(found))
    )


def _kv_byte(dtype: str) -> float:
    """Engines keep the cache of a model whose weights have 8 bits in 8 bits too."""
    return 1.0 if dtype == "fp8" else 2.0

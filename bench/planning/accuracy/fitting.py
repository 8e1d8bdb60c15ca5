"""Where constants come from that nobody states: fitted to a few of the measured rows.

    HOSTS       of each engine: what its host adds to a step, and to each sequence of it
    PEERS       of each engine: how much requests of equal length come apart
    Efficiency  what is reached of a device's figures; one set for all devices and engines

The loss is that of a robust regression of logarithms of both times: rows that were measured under
conditions nobody stated pull little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import msgspec
import numpy as np

from baton.bench.planning.accuracy.rows import SiliconRow
from baton.bench.planning.accuracy.sources import (
    PEERS,
    Curves,
    Peer,
    roofline_curves,
    seen_by_clients,
)
from baton.bench.planning.hardware.roofline import Efficiency
from baton.bench.planning.hardware.silicon import Host, Silicon
from baton.bench.planning.models import model_shape
from baton.protocol.curves import StepCurve

_SCALE = 0.1
"""Relative errors beyond this count linearly."""
_SHORTEST = (1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.9, 0.85, 0.8)
_SHARES = ("memory", "products", "products_fp8", "attention", "peer")
_SECONDS = ("sum_latency", "step", "sequence")


def fit_hosts(rows: Sequence[SiliconRow]) -> dict[str, tuple[Host, Peer]]:
    """Of every engine. Raises ConfigError without measured kernels."""

    @cache
    def kernels(model: str, dtype: str, system: str, devices: int, engine: str) -> StepCurve:
        return Silicon(
            model_shape(model, dtype), system, devices, engine, kv_fp8=dtype == "fp8",
            host=Host(0.0, 0.0),
        ).curve().curve

    return {
        engine: fit_host(
            [row for row in rows if row.engine == engine],
            lambda row: kernels(row.model, row.dtype, row.system, row.devices, row.engine),
            peer,
        )
        for engine, peer in PEERS.items()
    }


def fit_host(
    rows: Sequence[SiliconRow], kernels: Curves, peer: Peer
) -> tuple[Host, Peer]:
    """Of one engine; `kernels`: curves without any host. Rows must be of it and known."""
    found = (math.inf, Host(0.0, 0.0), peer)
    curves = [kernels(row) for row in rows]
    for shortest in _SHORTEST:
        tried = replace(peer, shortest=shortest)

        def residuals(x: np.ndarray, tried: Peer = tried) -> np.ndarray:
            step, sequence = np.exp(x)
            return _residuals(
                rows, [_hosted(curve, Host(step, sequence)) for curve in curves], tried
            )

        x, cost = _minimum(residuals, np.log([1e-3, 2e-5]), np.log([1e-6, 1e-7]),
                           np.log([2e-2, 1e-3]))
        if cost < found[0]:
            step, sequence = np.exp(x)
            found = (cost, Host(float(step), float(sequence)), tried)
    return found[1], found[2]


def fit_efficiency(rows: Sequence[SiliconRow], start: Efficiency) -> Efficiency:
    """Over all devices and engines. Rows must be of models that a roofline knows."""
    names = (*_SHARES, *_SECONDS)

    def made(x: np.ndarray) -> Efficiency:
        return Efficiency(**dict(zip(names, map(float, np.exp(x)), strict=True)))

    def residuals(x: np.ndarray) -> np.ndarray:
        curves = roofline_curves(made(x))
        return _residuals(rows, [curves(row) for row in rows])

    first = np.log([getattr(start, name) for name in names])
    low = np.log([0.2] * len(_SHARES) + [1e-6, 1e-5, 1e-7])
    high = np.log([0.9, 0.9, 0.9, 0.7, 0.9, 1e-4, 1e-2, 1e-3])
    return made(_minimum(residuals, first, low, high)[0])


# -- inside ----------------------------------------------------------------------------------


def _residuals(
    rows: Sequence[SiliconRow], curves: Sequence[StepCurve], peer: Peer | None = None
) -> np.ndarray:
    found = []
    for row, curve in zip(rows, curves, strict=True):
        seen = seen_by_clients(row, curve, peer)
        found += [math.log(seen.ttft / row.ttft), math.log(seen.tpot / row.tpot)]
    return np.array(found)


def _hosted(curve: StepCurve, host: Host) -> StepCurve:
    """Of steps with one prompt each, which is what most are that have any."""
    hosted: StepCurve = msgspec.structs.replace(
        curve,
        base=curve.base + host.step,
        chunk=curve.chunk + host.sequence,
        decode=curve.decode + host.sequence,
    )
    return hosted


def _minimum(
    residuals: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> tuple[np.ndarray, float]:
    from scipy.optimize import least_squares  # of the optional group "bench"

    found = least_squares(
        residuals, np.clip(start, low + 1e-6, high - 1e-6), bounds=(low, high), loss="soft_l1",
        f_scale=_SCALE, diff_step=0.02, max_nfev=25, xtol=1e-3, ftol=1e-3,
    )
    return found.x, float(found.cost)

"""Step times that others published: the fits of DistServe, the measurements of Splitwise."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from baton.bench.planning.hardware.devices import DEVICES, Device
from baton.bench.planning.hardware.links import link_of
from baton.bench.planning.hardware.made import SPREAD
from baton.bench.planning.hardware.roofline import pool_tokens
from baton.bench.planning.models import ModelShape, model_shape
from baton.bench.simulator.machine import Machine
from baton.engine.limits import SchedulerLimits
from baton.engine.step_fit import fit_steps
from baton.protocol.curves import StepCurve, StepShape, attention_pairs
from baton.protocol.errors import ConfigError

_MS = 1e-3
_BLOCK_SIZE = 32
_EXACT_AT = 512


@dataclass(frozen=True, kw_only=True)
class Published:
    machine: Machine
    devices: int
    error: float | None
    """Median relative error of the curve on the steps it was fitted to."""
    note: str


# -- DistServe -------------------------------------------------------------------------------


@dataclass(frozen=True)
class DistServeFit:
    """ms = a + b tokens + c tokens^2 of prompts; a + b context + c batch of decodes, with other
    coefficients from a batch of `threshold` on."""

    threshold: int
    prefill: tuple[float, float, float]
    small: tuple[float, float, float]
    large: tuple[float, float, float]

    def prefill_seconds(self, lengths: Sequence[int]) -> float:
        fixed, linear, square = self.prefill
        return _MS * (fixed + linear * sum(lengths) + square * sum(n * n for n in lengths))

    def decode_seconds(self, batch: int, context: int) -> float:
        """`context`: of all sequences together."""
        base, token, sequence = self.small if batch < self.threshold else self.large
        return _MS * (base + token * context + sequence * batch)

    def curve(self, largest: int) -> StepCurve:
        """The decoding part of small batches is exact where no batch reaches the threshold; with
        larger ones, what is nearest to both over batches up to `largest`."""
        fixed, linear, square = self.prefill
        base, context, decode = self.small
        if largest >= self.threshold:
            batches = sorted({1, 2, 4, 8, 16, 32, 64, self.threshold, largest,
                              (self.threshold + largest) // 2})
            fitted = fit_steps(
                (StepShape.decodes(n, n * each), self.decode_seconds(n, n * each))
                for n in batches if n <= largest
                for each in (128, 512, 1024)
            )
            base, context, decode = (
                cost / _MS for cost in (fitted.base, fitted.context, fitted.decode)
            )
        # A prompt of n tokens attends over n (n + 1) / 2 pairs, so n^2 is 2 pairs less n. Where a
        # step of decodes costs more to begin with than one of prompts, its tokens cost that much
        # less, so that both are exact, prompts at this length.
        token = linear - square - max(0.0, base - fixed) / _EXACT_AT
        return StepCurve(
            base=base * _MS,
            chunk=max(0.0, fixed - base) * _MS,
            token=max(0.0, token) * _MS,
            pair=2 * square * _MS,
            decode=decode * _MS,
            context=context * _MS,
            spread=SPREAD,
            steps=1000,
        )


def read_distserve(path: Path) -> dict[str, dict[int, DistServeFit]]:
    """By model and tensor-parallel size. Raises OSError, ValueError, KeyError."""
    plain: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return {
        model: {
            int(size): DistServeFit(
                threshold=fit["decoding_large_small_bs_threshold"],
                prefill=tuple(fit["prefill"]),
                small=tuple(fit["decoding_smallbs"]),
                large=tuple(fit["decoding_largebs"]),
            )
            for size, fit in fits.items()
        }
        for model, fits in plain.items()
    }


def from_distserve(path: Path, model: str, size: int, *, large: bool = False) -> Published:
    """OPT on devices of 80 GB. `large`: batches beyond the threshold too. Raises OSError,
    ValueError, KeyError, ConfigError."""
    fit = read_distserve(path)[model][size]
    most = fit.threshold * (2 if large else 1)
    curve = fit.curve(most if large else fit.threshold - 1)
    return Published(
        machine=_machine(model_shape(model), DEVICES["a100"], size, curve, most),
        devices=size,
        error=None,
        note=f"DistServe's fit of {model} on A100, {path.name}",
    )


# -- Splitwise -------------------------------------------------------------------------------


_SPLITWISE_DEVICES = {"a100-80gb": "a100", "h100-80gb": "h100", "h100-80gb-pcap": "h100"}
_SPLITWISE_MODELS = {"llama2-70b": "llama-2-70b", "bloom-176b": "bloom-176b"}


@dataclass(frozen=True)
class SplitwiseRow:
    """Medians of the runs of one kind."""

    model: str
    hardware: str
    size: int
    prompt: int
    batch: int
    prompt_seconds: float
    token_seconds: float


def read_splitwise(path: Path) -> list[SplitwiseRow]:
    """Raises OSError, ValueError, KeyError."""
    groups: dict[tuple[str, str, int, int, int], list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["model"], row["hardware"], int(row["tensor_parallel"]),
                   int(row["prompt_size"]), int(row["batch_size"]))
            groups.setdefault(key, []).append(
                (float(row["prompt_time"]) * _MS, float(row["token_time"]) * _MS)
            )
    return [
        SplitwiseRow(*key, statistics.median(p for p, _ in runs),
                     statistics.median(t for _, t in runs))
        for key, runs in groups.items()
    ]


def from_splitwise(
    path: Path, model: str | None, sizes: Sequence[int] = ()
) -> Iterator[Published]:
    """Curves fitted to the measurements, one for each tensor-parallel size of a model on one kind
    of devices: `NAME@HARDWARE`. Raises OSError, ValueError, KeyError, ConfigError."""
    rows = read_splitwise(path)
    name, _, hardware = (model or "").partition("@")
    chosen = [
        row for row in rows
        if (not name or row.model == name or _SPLITWISE_MODELS.get(row.model) == name)
        and (not hardware or row.hardware == hardware)
        and (not sizes or row.size in sizes)
    ]
    if len({(row.model, row.hardware) for row in chosen}) != 1:
        there = sorted({f"{row.model}@{row.hardware}" for row in rows})
        raise ConfigError(f"{path} has {', '.join(there)}: {model or 'none'} is not one of these")
    for key in sorted({(row.model, row.hardware, row.size) for row in chosen}):
        mine = [row for row in chosen if (row.model, row.hardware, row.size) == key]
        yield _of_rows(mine, path)


def _of_rows(rows: Sequence[SplitwiseRow], path: Path) -> Published:
    first = rows[0]
    samples = []
    for row in rows:
        tokens = row.batch * row.prompt
        pairs = row.batch * attention_pairs(row.prompt, 0)
        samples.append((StepShape(row.batch, tokens, pairs), row.prompt_seconds))
        samples.append((StepShape.decodes(row.batch, tokens), row.token_seconds))
    curve = fit_steps(samples)
    error = statistics.median(
        abs(curve.seconds(shape) / seconds - 1) for shape, seconds in samples
    )
    curve = msgspec.structs.replace(curve, spread=SPREAD, covariance=())
    device = DEVICES[_SPLITWISE_DEVICES[first.hardware]]
    shape = model_shape(_SPLITWISE_MODELS[first.model])
    return Published(
        machine=_machine(shape, device, first.size, curve, max(row.batch for row in rows)),
        devices=first.size,
        error=error,
        note=f"Splitwise's measurements of {first.model} on {first.hardware}, {path.name}",
    )


def _machine(
    model: ModelShape, device: Device, size: int, curve: StepCurve, most: int
) -> Machine:
    layout = model.layout(_BLOCK_SIZE)
    return Machine(
        name=f"{model.name}-tp{size}",
        curve=curve,
        link=link_of(device.network * size),
        layout=layout,
        num_blocks=pool_tokens(model, device, size) // layout.block_size,
        limits=SchedulerLimits(
            max_model_len=32_768, max_running=most, max_batch_tokens=2048, prefill_chunk=512
        ),
    )

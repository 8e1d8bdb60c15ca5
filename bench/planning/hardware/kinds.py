"""Hardware by name: what a worker is made of, and where its step times come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from baton.bench.planning.hardware.made import made
from baton.bench.planning.hardware.measured import machine_of, read_profile
from baton.bench.planning.hardware.published import from_distserve
from baton.bench.simulator.machine import Machine
from baton.protocol.curves import LinkCurve
from baton.protocol.errors import ConfigError

MADE = "made"
WHAT_THERE_IS = (
    "a file of `baton profile`, FILE:MODEL:TP of a DistServe fit, or `made`"
)


@dataclass(frozen=True, kw_only=True)
class WorkerKind:
    """One way to run the model on these devices."""

    machine: Machine
    devices: int
    """Accelerators per worker: the tensor-parallel size."""
    origin: str
    """"measured", "silicon" or "roofline"."""
    error: float | None
    """Median relative error of its step times, where known."""
    note: str
    """One line: where the numbers come from."""


def worker_kinds(
    hardware: str,
    model: str | None = None,
    *,
    dtype: str | None = None,
    link: LinkCurve | None = None,
    tensor_parallel: Sequence[int] = (),
) -> list[WorkerKind]:
    """All that there are of `hardware`, at least one. `dtype` and `model` matter where it is not
    a measurement of one model; `link` replaces what is known or assumed of the network.

    Raises ConfigError, one line that names what there is.
    """
    found = _find(hardware)
    if tensor_parallel:
        kept = [kind for kind in found if kind.devices in tensor_parallel]
        if not kept:
            there = ", ".join(str(kind.devices) for kind in found)
            raise ConfigError(f"{hardware} has workers of {there} devices, none of "
                              f"{', '.join(map(str, tensor_parallel))}")
        found = kept
    if link is not None:
        found = [replace(kind, machine=replace(kind.machine, link=link)) for kind in found]
    return found


def load_machine(text: str | None) -> Machine:
    """The first kind of this hardware; `None`: the made one. Raises ConfigError, one line."""
    return worker_kinds(MADE if text is None else text)[0].machine


def _find(text: str) -> list[WorkerKind]:
    if text == MADE:
        return [WorkerKind(machine=made(), devices=1, origin="roofline", error=None,
                           note="13 billion parameters on 80 GB, 2 TB/s and 312 TFLOP/s")]
    name, _, rest = text.partition(":")
    path = Path(name)
    try:
        if rest:
            model, _, degree = rest.rpartition(":")
            return [WorkerKind(
                machine=from_distserve(path, model, int(degree)),
                devices=int(degree),
                origin="measured",
                error=None,
                note=f"fit of DistServe, {path.name}",
            )]
        profile = read_profile(path)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; hardware is {WHAT_THERE_IS}"
        ) from error
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"{text} is no profile: {error}; hardware is {WHAT_THERE_IS}"
        ) from error
    return [WorkerKind(
        machine=machine_of(profile),
        devices=1,
        origin="measured",
        error=None if profile.error is None else profile.error.median,
        note=f"`baton profile` on {profile.device_name}, {profile.threads} threads",
    )]
